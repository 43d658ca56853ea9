package installation

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"assay/policy"
)

func writePolicy(t *testing.T, dir, text string) {
	t.Helper()
	// As editors and deployments do it: a file in place of another.
	next := filepath.Join(dir, "p.next")
	if err := os.WriteFile(next, []byte("version: 1\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(dir, "p.yaml")); err != nil {
		t.Fatal(err)
	}
}

func TestServeRefusesAPolicyThatCannotBeUsed(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"faulty":          {"outcomes: [{outcome: isue}]", `"isue" is none of`},
		"no such profile": {"outcomes: [{outcome: issue, profile: strong}]", `profile "strong", but there are: device`},
		"failing test":    {"outcomes: [{outcome: issue}]\ntests: [{name: t, expect: refuse}]", `its test "t" fails: outcome is issue, not refuse`},
		"no opinion":      {"signals: [{name: o, that: opinion.score > 1, points: 1}]\noutcomes: [{outcome: issue}]", "no service outside is configured: name one under `opinion` in assay.yaml"},
	} {
		dir, _ := initialized(t, nil)
		edit(t, dir, "    identifiers:\n", "    policy: p.yaml\n    identifiers:\n")
		writePolicy(t, dir, test.text)
		_, err := opened(t, dir).policies(t.Context(), slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "directories.default.policy") {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir, _ := initialized(t, nil)
	edit(t, dir, "    identifiers:\n", "    policy: none.yaml\n    identifiers:\n")
	if _, err := opened(t, dir).policies(t.Context(), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a policy without a file")
	}
}

func TestAStopEndsTheTestsOfAPolicy(t *testing.T) {
	dir, _ := initialized(t, nil)
	edit(t, dir, "    identifiers:\n", "    policy: p.yaml\n    identifiers:\n")
	writePolicy(t, dir, "outcomes: [{outcome: issue}]\ntests: [{name: t, expect: issue}]")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := opened(t, dir).policies(ctx, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("got %v", err)
	}
}

func TestAPolicyTakesOverOnlyIfItPassesItsChecks(t *testing.T) {
	dir, _ := initialized(t, nil)
	edit(t, dir, "    identifiers:\n", "    policy: p.yaml\n    identifiers:\n")
	writePolicy(t, dir, "outcomes: [{outcome: issue}]")
	i := opened(t, dir)
	live, err := i.policies(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l := live["default"]
	inUse := func() policy.Version { return l.current.Load().Version() }
	refresh := func() { l.refresh(t.Context()); l.refresh(t.Context()) } // the first sees that it changed, the second that it stopped
	first := inUse()
	for _, bad := range []string{"outcomes: [", "outcomes: [{outcome: issue, profile: none}]", "outcomes: [{outcome: issue}]\ntests: [{name: t, expect: hold}]"} {
		writePolicy(t, dir, bad)
		refresh()
		if inUse() != first || l.logged == "" {
			t.Fatalf("%q took over", bad)
		}
	}
	if err := os.Remove(filepath.Join(dir, "p.yaml")); err != nil {
		t.Fatal(err)
	}
	refresh()
	if inUse() != first || l.logged == "" {
		t.Fatal("a policy whose file is gone went with it")
	}
	writePolicy(t, dir, "outcomes: [{outcome: refuse}]")
	refresh()
	if inUse() == first || l.logged != "" {
		t.Fatal("a good policy did not take over")
	}
}

// What is written first may be a policy by itself: without a score, say.
func TestAPolicyIsNotReadWhileItIsWritten(t *testing.T) {
	dir, _ := initialized(t, nil)
	edit(t, dir, "    identifiers:\n", "    policy: p.yaml\n    identifiers:\n")
	writePolicy(t, dir, "outcomes: [{outcome: refuse}]")
	live, err := opened(t, dir).policies(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l := live["default"]
	first := l.current.Load().Version()
	path := filepath.Join(dir, "p.yaml")
	written := "version: 1\noutcomes:\n- outcome: issue\n"
	for _, more := range []string{"", "  score: 1\n", "  when: device.known\n"} {
		written += more
		if err := os.WriteFile(path, []byte(written), 0o600); err != nil {
			t.Fatal(err)
		}
		l.refresh(t.Context())
		if l.current.Load().Version() != first {
			t.Fatalf("%q took over", written)
		}
	}
	l.refresh(t.Context())
	if string(l.current.Load().Text()) != written {
		t.Errorf("in use is %s", l.current.Load().Text())
	}
}

func TestARunningServerTakesANewPolicyAndNewSecrets(t *testing.T) {
	dir, _ := initialized(t, nil)
	configureOpinion(t, dir, "https://edr.example.com", "")
	edit(t, dir, "    identifiers:\n", "    policy: p.yaml\n    identifiers:\n")
	writePolicy(t, dir, "outcomes: [{outcome: issue}]")
	s := serve(t, opened(t, dir))
	writePolicy(t, dir, "outcomes: [{outcome: refuse}]")
	if err := os.WriteFile(filepath.Join(dir, "keys", "opinion.secrets"), []byte(opinionSecret+"\n"+opinionSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "the policy is read again", func() bool { return strings.Contains(s.log.String(), "policy read again") })
	await(t, "the secrets are read again", func() bool { return strings.Contains(s.log.String(), "opinion secrets read again") })
}
