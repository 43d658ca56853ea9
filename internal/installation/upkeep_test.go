package installation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/logbook"
	"assay/internal/store/storetest"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// strangersFlushed counts the audit rows about strangers: to write one is the last step of upkeep.
func strangersFlushed(t *testing.T, i *Installation) (rows int) {
	t.Helper()
	for _, err := range i.Store.Audit(t.Context(), audit.Filter{Action: audit.StrangersRefused}) {
		if err != nil {
			t.Fatal(err)
		}
		rows++
	}
	return rows
}

func TestUpkeepDoesAllOfItsWork(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	start := time.Now()
	var later atomic.Int64 // how far the clock is beyond start
	i.now = func() time.Time { return start.Add(time.Duration(later.Load())) }
	log := &logbook.Book{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	running := &Running{BaseURL: "https://127.0.0.1:8443", Directories: map[string]string{}}
	acme, err := i.newServer(t.Context(), running, nil, i.newMeasures(logger), logger)
	if err != nil {
		t.Fatal(err)
	}

	// A round of upkeep, which begins as soon as upkeep does. A request of a stranger before it is
	// what the round's last step tells the trail.
	round := func() {
		t.Helper()
		before := strangersFlushed(t, i)
		request := httptest.NewRequest("POST", strings.TrimSuffix(running.Directories["default"], "directory")+"new-account", bytes.NewReader([]byte("{}")))
		request.Header.Set("Content-Type", "application/jose+json")
		acme.ServeHTTP(httptest.NewRecorder(), request)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			i.upkeep(ctx, acme, i.newTurns(UpkeepInterval, logger), logger)
		}()
		defer func() { cancel(); <-done }()
		await(t, "strangers' counts are flushed", func() bool { return strangersFlushed(t, i) != before })
	}

	issuers, err := i.Store.Issuers(t.Context())
	if err != nil || len(issuers) != 1 {
		t.Fatal(issuers, err)
	}
	b := storetest.NewBench(t, i.Store) // after newServer: its issuer is not one that can sign
	claimed := func(at time.Time) issuance.CodeID {
		t.Helper()
		b.Now = at
		code, value := b.Mint()
		b.Claimed(value)
		return code.ID
	}
	claimed(start.Add(-48 * time.Hour)) // a server was here before: the clock is believed
	dead, live := claimed(start.Add(-UpkeepInterval-time.Second)), claimed(start.Add(-UpkeepInterval+time.Second))
	spent := issuance.Nonce{ID: [16]byte{1}, ExpiresAt: start.Add(-time.Hour)}
	if err := i.Store.SpendNonce(t.Context(), spent); err != nil {
		t.Fatal(err)
	}

	round()
	for code, want := range map[issuance.CodeID]issuance.CodeStatus{dead: issuance.CodeUnused, live: issuance.CodeIssuing} {
		if c, err := i.Store.Code(t.Context(), code); err != nil || c.Status != want {
			t.Errorf("code is %s, want %s (error %v)", c.Status, want, err)
		}
	}
	if err := i.Store.SpendNonce(t.Context(), spent); err != nil {
		t.Errorf("nothing was cleaned up: a nonce that expired an hour ago is kept: %v", err)
	}
	first, err := i.Store.CRL(t.Context(), issuers[0].ID, 0)
	if err != nil {
		t.Fatalf("CRL after the first round: %v", err)
	}

	later.Store(int64(first.NextUpdate.Sub(start)))
	round()
	second, err := i.Store.CRL(t.Context(), issuers[0].ID, 0)
	if err != nil || !second.ThisUpdate.After(first.ThisUpdate) || second.Number <= first.Number {
		t.Errorf("CRL %d of %v was not renewed: it is %d of %v (error %v)", first.Number, first.ThisUpdate, second.Number, second.ThisUpdate, err)
	}
	if text := log.String(); strings.Contains(text, "level=ERROR") {
		t.Errorf("upkeep failed:\n%s", text)
	}
}

// A clock that is far ahead for a while costs no evidence: what is over by it leaves when it was so for a day.
func TestNothingIsRemovedWhileTheClockIsDoubted(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	now := time.Now()
	i.now = func() time.Time { return now }
	log := &logbook.Book{}
	c := &cleaning{installation: i, log: slog.New(slog.NewTextHandler(log, nil))}
	b := storetest.NewBench(t, i.Store)
	b.Now = now.Add(-48 * time.Hour)
	b.Mint() // a server was here before
	b.Now = now
	code, value := b.Mint(storetest.WithDocument("p"))
	answer := storetest.AnswerFor(b.Pending(value))
	answer.Refusal, answer.Evidence.Failed = &issuance.Refusal{Check: "freshness"}, "freshness"
	order, err := i.Store.AnswerChallenge(t.Context(), b.Call(), answer)
	if err != nil {
		t.Fatal(err)
	}
	round := func(at time.Time) (kept bool) {
		t.Helper()
		now, b.Now = at, at
		b.Mint() // as a server in use would
		if err := c.up(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, evidence := i.Store.Evidence(t.Context(), order.Evidence)
		_, document := i.Store.DocumentByPath(t.Context(), sha256.Sum256([]byte("p")), code.CreatedAt)
		if (evidence == nil) != (document == nil) {
			t.Fatalf("evidence: %v, document: %v", evidence, document)
		}
		return evidence == nil
	}
	start := now
	for _, step := range []struct {
		after    time.Duration
		kept     bool
		doubtful int
	}{
		{time.Minute, true, 0},
		{400 * 24 * time.Hour, true, 1},
		{400*24*time.Hour + time.Minute, true, 1},
		{2 * time.Minute, true, 0}, // set right
		{401*24*time.Hour + time.Hour, false, 0},
	} {
		if kept := round(start.Add(step.after)); kept != step.kept {
			t.Errorf("after %s: kept %t, want %t", step.after, kept, step.kept)
		}
		told := fmt.Sprintf(`
			# HELP assay_clock_doubtful 1 while this server removes nothing, because its clock may be far ahead.
			# TYPE assay_clock_doubtful gauge
			assay_clock_doubtful %d
			`, step.doubtful)
		if err := testutil.CollectAndCompare(newFigures(i.Store, i.now, c.log), strings.NewReader(told), "assay_clock_doubtful"); err != nil {
			t.Errorf("after %s: %v", step.after, err)
		}
	}
	if text := log.String(); strings.Count(text, "nothing is removed for a day") != 1 || strings.Count(text, "removed again") != 1 {
		t.Errorf("the log says:\n%s", text)
	}
}

// TestTheClockThatIsBelievedIsTheOneThatRemoves: a clock that jumps between the two is not believed.
func TestTheClockThatIsBelievedIsTheOneThatRemoves(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	start, readings := time.Now(), 0
	i.now = func() time.Time {
		if readings++; readings == 1 {
			return start
		}
		return start.Add(100 * 24 * time.Hour)
	}
	b := storetest.NewBench(t, i.Store)
	b.Now = start.Add(-48 * time.Hour)
	b.Mint() // a server was here before
	b.Now = start
	_, value := b.Mint()
	answer := storetest.AnswerFor(b.Pending(value))
	answer.Refusal, answer.Evidence.Failed = &issuance.Refusal{Check: "freshness"}, "freshness"
	order, err := i.Store.AnswerChallenge(t.Context(), b.Call(), answer)
	if err != nil {
		t.Fatal(err)
	}
	c := &cleaning{installation: i, log: slog.New(slog.NewTextHandler(&logbook.Book{}, nil))}
	if err := c.up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Store.Evidence(t.Context(), order.Evidence); err != nil {
		t.Errorf("evidence of today: %v", err)
	}
}

// TestUpkeepStopsWithItsContext: and without a word, as steps that were cut off are no fault.
func TestUpkeepStopsWithItsContext(t *testing.T) {
	dir, _ := initialized(t, nil)
	i := opened(t, dir)
	log := &logbook.Book{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	running := &Running{BaseURL: "https://127.0.0.1:8443", Directories: map[string]string{}}
	acme, err := i.newServer(t.Context(), running, nil, i.newMeasures(logger), logger)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	i.upkeep(ctx, acme, i.newTurns(UpkeepInterval, logger), logger) // returns
	if text := log.String(); strings.Contains(text, "level=ERROR") {
		t.Errorf("stopping is told as a fault:\n%s", text)
	}
}
