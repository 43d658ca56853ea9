package installation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"assay/internal/files"
	"assay/policy"
)

// policyCheck is how often the files of policies are looked at for changes.
const policyCheck = time.Second

// fileState is what shows that a file changed.
type fileState struct {
	modified int64 // nanoseconds since 1970
	size     int64
}

func stateOf(info os.FileInfo) fileState { return fileState{info.ModTime().UnixNano(), info.Size()} }

// livePolicy is the policy of one directory, read again when its file changes. A new one takes over at
// once and whole, and only if it passes every check; else the last good one stays. A file is read once it
// has not changed between two looks: half a policy may well be one, without its last conditions and tests.
type livePolicy struct {
	directory string
	path      string
	check     func(*policy.Policy) error
	log       *slog.Logger

	current atomic.Pointer[policy.Policy]
	read    fileState // of the file that was last read, also in vain
	seen    fileState // at the look before
	logged  string    // the fault that the log has; "" while all is well
}

// policies reads the policies of the directories that name one. A faulty one is a *ConfigError.
func (i *Installation) policies(log *slog.Logger) (map[string]*livePolicy, error) {
	live := map[string]*livePolicy{}
	var errs []error
	for _, name := range i.directoryNames() {
		file := i.Config.Directories[name].Policy
		if file == "" {
			continue
		}
		l := &livePolicy{directory: name, path: within(i.Dir, file), check: i.Config.checkTested, log: log}
		p, err := l.load()
		if err != nil {
			errs = append(errs, fmt.Errorf("directories.%s.policy: %w", name, err))
			continue
		}
		l.use(p)
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
func (c *Config) checkTested(p *policy.Policy) error {
	errs := c.CheckPolicy(p)
	for _, r := range p.Test(context.Background()) {
		if !r.Passed {
			errs = append(errs, fmt.Errorf("its test %q fails: %s", r.Name, strings.Join(r.Faults, ", ")))
		}
	}
	return errors.Join(errs...)
}

// load reads and checks the file as it is now.
func (l *livePolicy) load() (*policy.Policy, error) {
	f, err := files.Open(l.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	l.read = stateOf(info)
	text, err := io.ReadAll(io.LimitReader(f, policy.MaxSize+1))
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err != nil || stateOf(info) != l.read {
		return nil, errors.Join(err, errors.New("the file is just being written"))
	}
	p, err := policy.Parse(strings.TrimSuffix(filepath.Base(l.path), ".yaml"), text)
	if err != nil {
		return nil, err
	}
	if err := l.check(p); err != nil {
		return nil, fmt.Errorf("policy %s: %w", p.Version().Name, err)
	}
	return p, nil
}

// use lets a policy take over.
func (l *livePolicy) use(p *policy.Policy) {
	l.current.Store(p)
	for _, w := range p.Warnings() {
		l.log.Warn("policy: "+w.String(), "directory", l.directory, "policy", p.Version().Name)
	}
}

// reload is what became of looking at a policy's file.
type reload int

const (
	reloadNone reload = iota // nothing changed
	reloadGood
	reloadBad // the last good policy stays in use
)

// refresh reads the file again if it changed. The same fault is told once.
func (l *livePolicy) refresh() reload {
	info, err := os.Stat(l.path)
	if err == nil && stateOf(info) == l.read {
		return reloadNone
	}
	if err == nil && stateOf(info) != l.seen { // it may still be written
		l.seen = stateOf(info)
		return reloadNone
	}
	var p *policy.Policy
	if err == nil {
		p, err = l.load()
	}
	if err == nil && l.read != l.seen { // it was replaced since: the next look tells more
		l.seen, l.read = l.read, fileState{}
		return reloadNone
	}
	if err != nil {
		told := l.logged == err.Error()
		l.logged = err.Error()
		if told {
			return reloadNone
		}
		l.log.Error("the last good policy stays in use", "directory", l.directory, "error", err)
		return reloadBad
	}
	l.logged = ""
	if p.Version() == l.current.Load().Version() {
		return reloadGood
	}
	l.log.Info("policy read again", "directory", l.directory, "policy", p.Version().Name, "sha256", p.Version().SHA256)
	l.use(p)
	return reloadGood
}

// watchPolicies looks at the files of policies until the context ends.
func watchPolicies(ctx context.Context, live map[string]*livePolicy, note func(directory string, r reload)) {
	ticker := time.NewTicker(policyCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for _, l := range live {
				note(l.directory, l.refresh())
			}
		}
	}
}
