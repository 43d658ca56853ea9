package delivery

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"assay/internal/files"
	"assay/internal/issuance"

	"github.com/google/go-cmp/cmp"
)

// shelf is a folder of templates with a clock and a log.
type shelf struct {
	dir  string
	mu   sync.Mutex
	time time.Time
	log  bytes.Buffer
}

func newShelf(t *testing.T, files ...string) *shelf {
	t.Helper()
	s := &shelf{dir: filepath.Join(t.TempDir(), "credentials"), time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	for i := 0; i+1 < len(files); i += 2 {
		s.write(t, files[i], files[i+1])
	}
	return s
}

func (s *shelf) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.time
}

func (s *shelf) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.time = s.time.Add(d)
}

func (s *shelf) write(t *testing.T, name, data string) {
	t.Helper()
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *shelf) load(directories ...string) (*Templates, error) {
	if directories == nil {
		directories = []string{"default"}
	}
	templates, err := LoadTemplates(s.dir, directories, s.now, slog.New(slog.NewTextHandler(&s.log, nil)))
	templates.pause = func() {}
	return templates, err
}

func names(templates *Templates) (out []string) {
	all, err := templates.All()
	if err != nil {
		return []string{err.Error()}
	}
	for _, one := range all {
		out = append(out, one.Name)
	}
	return out
}

func TestTemplatesOfAFolder(t *testing.T) {
	s := newShelf(t, "b.yaml", small, "a.yaml", small, ".b.yaml.swp", "x", ".hidden.yaml", "x", "a.yaml~", "x", "README.md", "x")
	templates, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, names(templates)); diff != "" {
		t.Error(diff)
	}
	if one, err := templates.Get("a"); err != nil || one.Name != "a" || one.Directory != "default" {
		t.Errorf("got %+v, %v", one, err)
	}
	if _, err := templates.Get("c"); !errors.Is(err, ErrNoTemplate) || !errors.Is(err, issuance.ErrNotFound) || err.Error() != `template "c": there is no such credential template` {
		t.Errorf("got %v", err)
	}
}

func TestTemplatesOfAFolderThatDoesNotExist(t *testing.T) {
	s := newShelf(t)
	templates, err := s.load()
	if err != nil || len(names(templates)) != 0 {
		t.Fatalf("got %v, %v", templates, err)
	}
	s.write(t, "a.yaml", small)
	s.pass(templateCheck)
	if _, err := templates.Get("a"); err != nil {
		t.Errorf("a folder that was made later: %v", err)
	}
}

func TestTemplatesAreReadAgainWhenAFileChanges(t *testing.T) {
	s := newShelf(t, "a.yaml", small)
	templates, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	before, _ := templates.Get("a")
	s.write(t, "a.yaml", small+"revokeSuperseded: true\n")
	s.write(t, "b.yaml", small)
	s.pass(templateCheck - 1)
	if got, _ := templates.Get("a"); got != before {
		t.Error("the files were looked at too early")
	}
	s.pass(1)
	if got, err := templates.Get("a"); err != nil || !got.RevokeSuperseded {
		t.Errorf("the change was not seen: %+v, %v", got, err)
	}
	if before.RevokeSuperseded {
		t.Error("a template in use was changed")
	}
	if err := os.Remove(filepath.Join(s.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	s.pass(templateCheck)
	if diff := cmp.Diff([]string{"b"}, names(templates)); diff != "" {
		t.Errorf("the removal was not seen: %s", diff)
	}
	b, _ := templates.Get("b")
	s.pass(templateCheck)
	if again, _ := templates.Get("b"); again != b {
		t.Error("files that did not change were read again")
	}
}

func TestFaultyTemplatesLeaveTheLastGoodOnesInUse(t *testing.T) {
	s := newShelf(t, "a.yaml", small, "b.yaml", small)
	templates, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "a.yaml", strings.Replace(small, "384", "512", 1))
	s.write(t, "b.yaml", small+"revokeSuperseded: true\n")
	for range 3 {
		s.pass(templateCheck)
		if b, err := templates.Get("b"); err != nil || b.RevokeSuperseded {
			t.Fatalf("half of a faulty state is in use: %+v, %v", b, err)
		}
	}
	if logged := s.log.String(); strings.Count(logged, "last good") != 1 || !strings.Contains(logged, "a.yaml") || !strings.Contains(logged, "key-size-ec") {
		t.Errorf("log:\n%s", logged)
	}
	s.write(t, "a.yaml", strings.Replace(small, "384", "511", 1))
	s.pass(templateCheck)
	names(templates)
	if logged := s.log.String(); strings.Count(logged, "last good") != 2 {
		t.Errorf("another fault is not in the log:\n%s", logged)
	}
	s.write(t, "a.yaml", small)
	s.pass(templateCheck)
	if b, err := templates.Get("b"); err != nil || !b.RevokeSuperseded {
		t.Errorf("the mended state is not in use: %+v, %v", b, err)
	}
}

func TestATemplateThatMayBeFaultySaysSo(t *testing.T) {
	s := newShelf(t, "a.yaml", small)
	templates, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	const hint = "(its file may be faulty: see the server's log)"
	s.write(t, "b.yaml", strings.Replace(small, "384", "512", 1))
	if _, err := templates.Get("b"); !errors.Is(err, ErrNoTemplate) || !strings.HasSuffix(err.Error(), hint) {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(filepath.Join(s.dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := templates.Get("b"); !errors.Is(err, ErrNoTemplate) || strings.Contains(err.Error(), hint) {
		t.Errorf("once it is gone: %v", err)
	}
}

func TestWarningsOfTemplatesAreLoggedOnce(t *testing.T) {
	off := strings.Replace(small, "Attest: true", "Attest: false", 1)
	s := newShelf(t, "a.yaml", off, "b.yaml", small)
	templates, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	for step, want := range []string{"a attest-off, a unattested-refused", "", "b escaped-placeholder", "", "a attest-off, a unattested-refused"} {
		var got []string
		for line := range strings.Lines(s.log.String()) {
			if !strings.Contains(line, "level=WARN") {
				continue
			}
			var one []string
			for _, key := range []string{" template=", " rule="} {
				_, value, _ := strings.Cut(line, key)
				value, _, _ = strings.Cut(value, " ")
				one = append(one, value)
			}
			if !strings.Contains(line, " place=") || !strings.Contains(line, " hint=") {
				t.Errorf("incomplete: %s", line)
			}
			got = append(got, strings.Join(one, " "))
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("step %d: got %q, want %q", step, got, want)
		}
		s.log.Reset()
		switch step {
		case 1:
			s.write(t, "b.yaml", strings.Replace(small, "{device.serial}", "{{device.serial}}", 1))
		case 2:
			s.write(t, "a.yaml", small+"# mended\n")
		case 3:
			s.write(t, "a.yaml", off)
		}
		s.pass(templateCheck)
		names(templates)
	}
}

func TestAFolderThatCannotBeReadIsLoggedOnce(t *testing.T) {
	s := newShelf(t, "a.yaml", small)
	templates, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(s.dir, "b.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.pass(templateCheck)
		if _, err := templates.Get("a"); err != nil {
			t.Error(err)
		}
	}
	if logged := s.log.String(); strings.Count(logged, "last good") != 1 || !strings.Contains(logged, "no regular file") {
		t.Errorf("log:\n%s", logged)
	}
}

func TestLoadTemplatesRefuses(t *testing.T) {
	many := newShelf(t)
	for i := range MaxTemplates + 1 {
		many.write(t, fmt.Sprintf("t%d.yaml", i), "")
	}
	folder := newShelf(t)
	if err := os.MkdirAll(filepath.Join(folder.dir, "a.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		shelf *shelf
		words []string
	}{
		"every faulty file":      {newShelf(t, "a.yaml", "x: 1", "b.yaml", small, "c.yaml", "["), []string{"a.yaml", "c.yaml"}},
		"the other ending":       {newShelf(t, "a.yml", small), []string{"a.yml", "ends in .yaml"}},
		"a name of another form": {newShelf(t, "My Phones.yaml", small), []string{"My Phones", "lower-case"}},
		"too many":               {many, []string{"more than 1000"}},
		"a file too large":       {newShelf(t, "a.yaml", small+"#"+strings.Repeat("x", MaxTemplateSize)), []string{"65536"}},
		"a folder for a file":    {folder, []string{"no regular file"}},
		"an unknown directory":   {newShelf(t, "a.yaml", small+"directory: staff\n"), []string{"directory", "staff", "default"}},
	} {
		t.Run(name, func(t *testing.T) {
			templates, err := c.shelf.load()
			if err == nil {
				t.Fatal("loaded")
			}
			if usable := names(templates); len(usable) != 1 || usable[0] != err.Error() {
				t.Errorf("usable all the same: %v", usable)
			}
			for _, word := range c.words {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("no %q in: %v", word, err)
				}
			}
		})
	}
}

func TestATemplateWithoutADirectoryGetsTheOnlyOneOrDefault(t *testing.T) {
	for want, directories := range map[string][]string{"staff": {"staff"}, "default": {"staff", "default"}, "": {"staff", "guests"}} {
		templates, err := newShelf(t, "a.yaml", small).load(directories...)
		if want == "" {
			if err == nil {
				t.Errorf("%v: there is no default", directories)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if one, _ := templates.Get("a"); one.Directory != want {
			t.Errorf("%v: got %s", directories, one.Directory)
		}
	}
}

func TestTemplatesAreReadWhileTheyChange(t *testing.T) {
	s := newShelf(t, "a.yaml", small)
	templates, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range 50 {
				if _, err := templates.Get("a"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 20 {
		s.write(t, "b.yaml", small+strings.Repeat("#", i+1)+"\n")
		s.pass(templateCheck)
	}
	readers.Wait()
}

func TestTemplatesThatWereNeverGoodSayWhyUntilMended(t *testing.T) {
	s := newShelf(t, "a.yaml", "version: 7")
	templates, err := s.load()
	unreadable, ok := errors.AsType[*UnreadableError](err)
	if !ok || !strings.Contains(unreadable.Error(), "a.yaml") {
		t.Fatalf("got %v", err)
	}
	if _, err := templates.Get("a"); !errors.Is(err, unreadable) {
		t.Errorf("Get says %v", err)
	}
	if _, err := templates.All(); !errors.Is(err, unreadable) {
		t.Errorf("All says %v", err)
	}
	s.write(t, "a.yaml", small)
	s.pass(templateCheck)
	if _, err := templates.Get("a"); err != nil {
		t.Errorf("once mended: %v", err)
	}
}

func TestTemplateThatWasJustWrittenIsFoundAtOnce(t *testing.T) {
	s := newShelf(t)
	templates, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := templates.Get("a"); !errors.Is(err, ErrNoTemplate) {
		t.Fatalf("got %v", err)
	}
	s.write(t, "a.yaml", small) // at the same time by the clock
	if _, err := templates.Get("a"); err != nil {
		t.Error(err)
	}
}

func TestATemplateIsNotReadWhileItIsWritten(t *testing.T) {
	s := newShelf(t, "a.yaml", small)
	templates, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	before, _ := templates.Get("a")
	whole := small + "revokeSuperseded: true\n# the end\n"
	templates.pause = func() { s.write(t, "a.yaml", whole) }
	s.write(t, "a.yaml", small+"revokeSuperseded: true\n")
	s.pass(templateCheck)
	if got, err := templates.Get("a"); got != before || err != nil {
		t.Errorf("half a template is in use: %+v, %v", got, err)
	}
	templates.pause = func() {}
	s.pass(templateCheck)
	if got, err := templates.Get("a"); err != nil || !got.RevokeSuperseded || s.log.Len() == 0 || strings.Contains(s.log.String(), "last good") {
		t.Errorf("once it is written: %+v, %v, log:\n%s", got, err, s.log.String())
	}
}

// What was found the same twice is what is read, and not what came in its place since.
func TestATemplateThatIsReplacedBeforeItIsReadIsNotTaken(t *testing.T) {
	s := newShelf(t, "a.yaml", small)
	templates, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	found, err := templates.stat()
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "a.yaml", small+"# more\n")
	if _, err := templates.load(found); !errors.Is(err, files.ErrChanging) {
		t.Errorf("got %v", err)
	}
}

func TestAFolderThatGoesAwayTakesNoTemplateWithIt(t *testing.T) {
	s := newShelf(t, "a.yaml", small)
	templates, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		if err := os.Rename(s.dir, s.dir+".away"); err != nil {
			t.Fatal(err)
		}
		s.pass(templateCheck)
		if diff := cmp.Diff([]string{"a"}, names(templates)); diff != "" || !templates.isFaulty() {
			t.Errorf("while it is gone, faulty %v: %s", templates.isFaulty(), diff)
		}
		if logged := s.log.String(); strings.Count(logged, "last good") != n+1 {
			t.Errorf("log:\n%s", logged)
		}
		if err := os.Rename(s.dir+".away", s.dir); err != nil {
			t.Fatal(err)
		}
		s.pass(templateCheck)
		if diff := cmp.Diff([]string{"a"}, names(templates)); diff != "" || templates.isFaulty() {
			t.Errorf("once it is back unchanged, faulty %v: %s", templates.isFaulty(), diff)
		}
	}
}

// An editor may move a file away before it writes the next one in its place.
func TestATemplateThatGoesAwayBetweenTwoLooksIsNoFault(t *testing.T) {
	s := newShelf(t, "a.yaml", small)
	templates, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "b.yaml", small)
	templates.pause = func() {
		if err := os.Remove(filepath.Join(s.dir, "b.yaml")); err != nil {
			t.Error(err)
		}
	}
	s.pass(templateCheck)
	if diff := cmp.Diff([]string{"a"}, names(templates)); diff != "" || templates.isFaulty() {
		t.Errorf("faulty %v: %s", templates.isFaulty(), diff)
	}
}

func TestATemplateThatCouldNotBeOpenedIsTriedAgain(t *testing.T) {
	s := newShelf(t, "a.yaml", small)
	templates, err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "b.yaml", small)
	found, err := templates.stat()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.dir, "b.yaml")
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := templates.load(found); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	s.pass(templateCheck)
	if diff := cmp.Diff([]string{"a", "b"}, names(templates)); diff != "" {
		t.Errorf("it was not tried again: %s", diff)
	}
}
