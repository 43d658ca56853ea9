package installation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"assay/internal/files"
	"assay/policy"
)

// livePolicy is the policy of one directory, which takes over when its file changes.
type livePolicy struct {
	liveFile[*policy.Policy]
	directory string
	current   atomic.Pointer[policy.Policy]
}

// newLivePolicy reads a directory's policy.
func (c *Config) newLivePolicy(ctx context.Context, directory, path string, log *slog.Logger) (*livePolicy, error) {
	l := &livePolicy{directory: directory}
	l.liveFile = liveFile[*policy.Policy]{what: "policy", path: path, limit: policy.MaxSize, use: l.use, log: log.With("directory", directory)}
	l.open = func(path string) (fs.File, error) { return files.Open(path) }
	l.parse = func(ctx context.Context, text []byte) (*policy.Policy, error) {
		p, err := policy.Parse(strings.TrimSuffix(filepath.Base(path), ".yaml"), text)
		if err != nil {
			return nil, err
		}
		if err := c.checkTested(ctx, p); err != nil {
			return nil, fmt.Errorf("policy %s: %w", p.Version().Name, err)
		}
		return p, nil
	}
	p, err := l.load(ctx)
	if err != nil {
		return nil, err
	}
	l.use(p)
	return l, nil
}

// use lets a policy take over.
func (l *livePolicy) use(p *policy.Policy) {
	before := l.current.Swap(p)
	if before != nil && before.Version() == p.Version() {
		return
	}
	if before != nil {
		l.log.Info("policy read again", "policy", p.Version().Name, "sha256", p.Version().SHA256)
	}
	for _, w := range p.Warnings() {
		l.log.Warn("policy: "+w.String(), "policy", p.Version().Name)
	}
}

// policies reads the policies of the directories that name one. A faulty one is a *ConfigError.
func (i *Installation) policies(ctx context.Context, log *slog.Logger) (map[string]*livePolicy, error) {
	live := map[string]*livePolicy{}
	var errs []error
	for _, name := range i.directoryNames() {
		file := i.Config.Directories[name].Policy
		if file == "" {
			continue
		}
		l, err := i.Config.newLivePolicy(ctx, name, within(i.Dir, file), log)
		if err != nil {
			errs = append(errs, fmt.Errorf("directories.%s.policy: %w", name, err))
			continue
		}
		live[name] = l
	}
	if len(errs) > 0 {
		return nil, &ConfigError{errors.Join(errs...)}
	}
	return live, nil
}

// CheckPolicy finds what a policy needs and the installation lacks.
func (c *Config) CheckPolicy(p *policy.Policy) (faults []error) {
	for _, name := range p.Profiles() {
		if c.Profiles[name] == nil {
			faults = append(faults, fmt.Errorf("an outcome chooses the certificate profile %q, but there are: %s",
				name, strings.Join(slices.Sorted(maps.Keys(c.Profiles)), ", ")))
		}
	}
	if p.UsesOpinion() && c.Opinion.URL == "" {
		faults = append(faults, errors.New("it uses opinion.*, and no service outside is configured: name one under `opinion` in "+configFile))
	}
	return faults
}

// checkTested is CheckPolicy, and runs the policy's own tests.
func (c *Config) checkTested(ctx context.Context, p *policy.Policy) error {
	errs := c.CheckPolicy(p)
	for _, r := range p.Test(ctx) {
		if !r.Passed {
			errs = append(errs, fmt.Errorf("its test %q fails: %s", r.Name, strings.Join(r.Faults, ", ")))
		}
	}
	return errors.Join(errs...)
}
