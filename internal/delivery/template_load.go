package delivery

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"assay/internal/files"
	"assay/internal/issuance"
)

// MaxTemplates is the most templates that a folder may have.
const MaxTemplates = 1000

// ErrNoTemplate is the error for a name that no template has. It is an issuance.ErrNotFound.
var ErrNoTemplate error = noTemplate{}

type noTemplate struct{}

func (noTemplate) Error() string { return "there is no such credential template" }
func (noTemplate) Unwrap() error { return issuance.ErrNotFound }

// templateName is the form of a template's name, which is its file's without the ending.
var templateName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// UnreadableError: the folder's templates cannot be used, and never could since the program began.
type UnreadableError struct{ Err error }

func (e *UnreadableError) Error() string { return "credential templates: " + e.Err.Error() }
func (e *UnreadableError) Unwrap() error { return e.Err }

const templateEnding = ".yaml"

const (
	templateCheck = time.Second            // how often the files are looked at for changes
	templatePause = 300 * time.Millisecond // between the two looks that find a change, and that it has ended
)

// Templates are the templates of a folder, read again when a file changes. Either all of a folder's
// present state is in use or, if anything in it is faulty, all of the last good one, and the log says
// so once. A state is read once two looks found it the same: half a template may well be one. They are a
// pause apart, since the files are looked at when a template is used, and that may be the only use today.
// It also has the warnings of templates that come into use.
type Templates struct {
	dir         string
	directories []string
	now         func() time.Time
	log         *slog.Logger
	pause       func() // between two looks

	mu      sync.Mutex
	current map[string]*Template
	steady  map[string]fs.FileInfo // the files that were last found the same twice
	read    map[string]fs.FileInfo // the files that were last read whole, also if they are faulty; nil: they must be read again
	checked time.Time
	logged  string          // the fault that the log has; "" while all is well
	warned  map[string]bool // the warnings that the log has
	fault   error           // why there is no good state yet
}

// LoadTemplates reads the templates of a folder: its files NAME.yaml. A folder that does not exist
// has none. directories are the names of the ACME directories that templates may name; a template
// that names none gets the only one, or "default". Its error holds every fault of every file; the set
// that comes with it has no template until the files are mended, and says why.
func LoadTemplates(dir string, directories []string, now func() time.Time, log *slog.Logger) (*Templates, error) {
	t := &Templates{dir: dir, directories: directories, now: now, log: log, pause: func() { time.Sleep(templatePause) }, checked: now()}
	found, err := t.stat()
	if err == nil {
		t.current, err = t.load(found)
	}
	if err != nil {
		t.current, t.fault, t.logged = nil, &UnreadableError{err}, err.Error()
	}
	t.warn()
	return t, t.fault
}

// warn logs the warnings of the templates in use that the log has not got.
func (t *Templates) warn() {
	warned := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(t.current)) {
		for _, f := range t.current[name].warnings {
			key := strings.Join([]string{name, f.Path, f.Rule, f.Message}, "\n")
			if !t.warned[key] && !warned[key] {
				t.log.Warn("credential template: "+f.Message, "template", name, "place", f.Path, "line", f.Line, "rule", f.Rule, "hint", f.Fix)
			}
			warned[key] = true
		}
	}
	t.warned = warned
}

// Get returns a template by name, or an error that wraps ErrNoTemplate.
func (t *Templates) Get(name string) (*Template, error) {
	current, err := t.fresh(templateCheck)
	if err != nil {
		return nil, err
	}
	one, ok := current[name]
	if !ok { // somebody who just wrote it need not wait
		if current, err = t.fresh(0); err != nil {
			return nil, err
		}
		one, ok = current[name]
	}
	if !ok && t.isFaulty() {
		return nil, fmt.Errorf("template %s: %w (its file may be faulty: see the server's log)", quote(name), ErrNoTemplate)
	} else if !ok {
		return nil, fmt.Errorf("template %s: %w", quote(name), ErrNoTemplate)
	}
	return one, nil
}

// isFaulty reports whether the folder's present state cannot be used.
func (t *Templates) isFaulty() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.logged != ""
}

// All returns the templates, sorted by name.
func (t *Templates) All() ([]*Template, error) {
	current, err := t.fresh(templateCheck)
	if err != nil {
		return nil, err
	}
	out := make([]*Template, 0, len(current))
	for _, name := range slices.Sorted(maps.Keys(current)) {
		out = append(out, current[name])
	}
	return out, nil
}

// fresh returns the templates in use, after a look at the files if the last one was so long ago. The
// map is never changed, only replaced. It fails as long as there never was a good state.
func (t *Templates) fresh(age time.Duration) (map[string]*Template, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if now.Sub(t.checked).Abs() < age {
		return t.current, t.fault
	}
	t.checked = now
	found, err := t.stat()
	if err == nil && t.read != nil && maps.EqualFunc(found, t.read, files.Same) {
		return t.current, t.fault
	}
	t.read = nil // also if the files cannot be found: once they are back they are read, though they be as they were
	var next map[string]*Template
	if err == nil {
		if !t.settled(found) {
			return t.current, t.fault
		}
		next, err = t.load(found)
	}
	if errors.Is(err, files.ErrChanging) { // since: the next look tells more
		t.steady = nil
		return t.current, t.fault
	}
	if err != nil {
		if t.logged != err.Error() {
			t.log.Error("the last good credential templates stay in use", "error", err)
		}
		t.logged = err.Error()
		return t.current, t.fault
	}
	t.log.Info("credential templates read again", "templates", len(next))
	t.current, t.logged, t.fault = next, "", nil
	t.warn()
	return t.current, t.fault
}

// settled reports whether nothing more is being written: another look finds the files as they were found.
func (t *Templates) settled(found map[string]fs.FileInfo) bool {
	if t.steady == nil || !maps.EqualFunc(found, t.steady, files.Same) {
		t.pause()
		again, err := t.stat()
		if err != nil || !maps.EqualFunc(found, again, files.Same) {
			return false // the next look tells more
		}
		t.steady = found
	}
	return true
}

// stat lists the folder's template files. Files that begin with a dot or have another ending are none,
// such as what editors leave behind. A folder that is not there has none, unless there are templates in
// use: they did not go all at once because somebody wanted that.
func (t *Templates) stat() (map[string]fs.FileInfo, error) {
	found := map[string]fs.FileInfo{}
	entries, err := os.ReadDir(t.dir)
	if errors.Is(err, os.ErrNotExist) && len(t.current) == 0 {
		return found, nil
	} else if err != nil {
		return nil, fmt.Errorf("read %s: %w", t.dir, err)
	}
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, ".") || filepath.Ext(name) != templateEnding && filepath.Ext(name) != ".yml" {
			continue
		}
		info, err := os.Stat(filepath.Join(t.dir, name)) // follows links, as container platforms mount files
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", t.dir, err)
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is no regular file", filepath.Join(t.dir, name))
		}
		found[name] = info
	}
	if len(found) > MaxTemplates {
		return nil, fmt.Errorf("%s has more than %d", t.dir, MaxTemplates)
	}
	return found, nil
}

// load reads the files as they were found. ErrChanging if one is not so any more.
func (t *Templates) load(found map[string]fs.FileInfo) (map[string]*Template, error) {
	out := make(map[string]*Template, len(found))
	var errs []error
	for _, file := range slices.Sorted(maps.Keys(found)) {
		one, err := t.loadFile(file, found[file])
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", filepath.Join(t.dir, file), err))
			continue
		}
		out[one.Name] = one
	}
	err := errors.Join(errs...)
	if _, unread := errors.AsType[*fs.PathError](err); !unread && !errors.Is(err, files.ErrChanging) {
		t.read = found
	}
	return out, err
}

func (t *Templates) loadFile(file string, found fs.FileInfo) (*Template, error) {
	name, ok := strings.CutSuffix(file, templateEnding)
	if !ok {
		return nil, errors.New("a template's file name ends in .yaml")
	}
	path := filepath.Join(t.dir, file)
	f, err := files.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, info, err := files.Steady(f, path, MaxTemplateSize)
	if err != nil {
		return nil, err
	}
	if !files.Same(info, found) {
		return nil, files.ErrChanging
	}
	one, err := ParseTemplate(name, data)
	if err != nil {
		return nil, err
	}
	return one, t.resolveDirectory(one)
}

// resolveDirectory gives a template its directory: the one that it names, the only one, or "default".
func (t *Templates) resolveDirectory(one *Template) error {
	var ok bool
	if one.Directory, ok = issuance.ChooseDirectory(t.directories, one.Directory); !ok {
		return &TemplateError{Template: one.Name, Faults: []Fault{{Key: "directory",
			Message: fmt.Sprintf("there is no directory %s; there are: %s", quote(one.Directory), strings.Join(t.directories, ", "))}}}
	}
	return nil
}
