package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"assay/internal/audit"
	"assay/internal/issuance"
	"assay/internal/store"
)

var upkeepTests = map[string]func(*testing.T, *Bench){
	"CleanUpKeepsWhatIsAlive": func(t *testing.T, b *Bench) {
		code, value := b.Mint(WithDocument("p"))
		o := b.Pending(value)
		cert := b.Issued()
		cleaned, err := b.CleanUp(b.ctx(), b.Now)
		b.ok(err)
		if diff := cmp.Diff(store.Cleaned{}, cleaned); diff != "" {
			t.Error(diff)
		}
		b.wantOrder(o.ID, issuance.OrderPending, "")
		b.wantCode(code.ID, issuance.CodeUnused)
		b.wantCertificate(cert.ID, issuance.CertificateValid)
		_, err = b.DocumentByPath(b.ctx(), pathHash("p"), b.Now)
		b.ok(err)
	},
	"AClockThatIsFarAheadIsDoubtedForADay": func(t *testing.T, b *Bench) {
		doubtful := func(at time.Time) bool {
			t.Helper()
			_, doubtful, err := b.DoubtClock(b.ctx(), at)
			b.ok(err)
			return doubtful
		}
		if doubtful(b.Now.Add(-day)) {
			t.Error("a clock before everything is doubted: it removes nothing")
		}
		b.Mint()
		begin := b.Now
		if doubtful(begin.Add(7*day - time.Hour)) {
			t.Error("silence of a week less an hour is doubted")
		}
		ahead := begin.Add(40 * day)
		silent, yes, err := b.DoubtClock(b.ctx(), ahead)
		b.ok(err)
		if !yes || !silent.Equal(begin.Truncate(time.Millisecond)) && !silent.Equal(begin) {
			t.Errorf("40 days ahead: doubted %t, silent since %v, want %v", yes, silent, begin)
		}
		b.Now = ahead
		b.Mint() // what is written now proves nothing yet
		if !doubtful(ahead.Add(time.Minute)) || !doubtful(ahead.Add(day)) {
			t.Error("a clock is believed for what was written by itself")
		}
		if doubtful(ahead.Add(day + time.Minute)) {
			t.Error("after a day the clock is still doubted")
		}
		if doubtful(begin.Add(day + time.Minute)) {
			t.Error("the clock that was set right is doubted")
		}
	},
	"CleanUpRemovesWhatIsOver": func(t *testing.T, b *Bench) {
		for range 300 { // more than one batch
			b.ok(b.SpendNonce(b.ctx(), b.Call().Nonce))
		}
		b.Mint(WithDocument("p"), func(m *issuance.Mint) { m.Lifetime = 2 * time.Hour })
		_, value := b.Mint()
		guest := b.NewAccount()
		pending, refused := b.Pending(value), AnswerFor(b.Pending(value))
		refused.Refusal = &issuance.Refusal{Check: "freshness"}
		answered, err := b.AnswerChallenge(b.ctx(), b.Call(), refused)
		b.ok(err)
		cert := b.Issued()
		_, v := b.Mint()
		abandonedOrder, abandoned := b.Claimed(v)
		b.ok(b.AbandonIssue(b.ctx(), b.Operator(), abandonedOrder.ID, issuance.Refusal{Check: "x"}))

		b.Now = b.Now.Add(2*time.Hour + time.Second)
		cleaned, err := b.CleanUp(b.ctx(), b.Now)
		b.ok(err)
		if cleaned.Nonces < 300 || cleaned.Documents != 1 || cleaned.Accounts != 1 || cleaned.Orders != 0 {
			t.Errorf("cleaned %+v", cleaned)
		}
		_, err = b.Store.Account(b.ctx(), guest)
		b.wantError(err, issuance.ErrNotFound)

		b.Now = b.Now.Add(24 * time.Hour)
		cleaned, err = b.CleanUp(b.ctx(), b.Now)
		b.ok(err)
		if cleaned.Orders != 2 {
			t.Errorf("cleaned %+v", cleaned)
		}
		_, err = b.Order(b.ctx(), pending.ID)
		b.wantError(err, issuance.ErrNotFound)
		_, err = b.Evidence(b.ctx(), answered.Evidence)
		b.ok(err) // stays, as retention has it
		// What a serial was reserved for stays, and so does the account that holds it.
		b.wantOrder(cert.Order, issuance.OrderValid, "")
		b.wantOrder(abandonedOrder.ID, issuance.OrderInvalid, "x")
		b.wantCertificate(abandoned.ID, issuance.CertificateAbandoned)
		_, err = b.Store.Account(b.ctx(), b.Account)
		b.ok(err)
	},
	"OneServerAtATimeHoldsALease": func(t *testing.T, b *Bench) {
		held := make([]bool, 16)
		for _, err := range race(len(held), func(i int) (err error) {
			held[i], err = b.Lease(b.ctx(), b.Now, "upkeep", fmt.Sprint("server ", i), time.Minute)
			return err
		}) {
			b.ok(err)
		}
		holder := slices.Index(held, true)
		if holder < 0 || slices.Contains(held[holder+1:], true) {
			t.Fatalf("held %v", held)
		}
		lease := func(name, by string, want bool) {
			t.Helper()
			got, err := b.Lease(b.ctx(), b.Now, name, by, time.Minute)
			b.ok(err)
			if got != want {
				t.Errorf("%s of %s: %v", name, by, got)
			}
		}
		first := fmt.Sprint("server ", holder)
		lease("another work", "another", true)
		b.Now = b.Now.Add(59 * time.Second)
		lease("upkeep", "another", false)
		lease("upkeep", first, true) // prolonged
		b.Now = b.Now.Add(59 * time.Second)
		lease("upkeep", "another", false)
		b.Now = b.Now.Add(time.Second)
		lease("upkeep", "another", true) // it is over
		lease("upkeep", first, false)
		b.ok(b.ReleaseLeases(b.ctx(), "another"))
		lease("upkeep", first, true)
	},
	"CodesThatWereNeverUsedLeave": func(t *testing.T, b *Bench) {
		for range 250 { // more than one batch
			b.Mint()
		}
		published, _ := b.Mint(WithDocument("p"))
		revoked, _ := b.Mint()
		_, err := b.RevokeCode(b.ctx(), b.Operator(), revoked.ID)
		b.ok(err)
		_, v := b.Mint()
		abandonedOrder, abandoned := b.Claimed(v)
		b.ok(b.AbandonIssue(b.ctx(), b.Operator(), abandonedOrder.ID, issuance.Refusal{Check: "x"}))
		used := b.Issued()
		credential := b.Rendered(b.Rendering("C02XK1", "wifi"))
		renewed := b.Rendered(b.Again(credential))
		long, _ := b.Mint(func(m *issuance.Mint) { m.Lifetime = 400 * 24 * time.Hour })

		b.Now = b.Now.Add(90 * 24 * time.Hour) // since they were minted: they lived for a while
		cleaned, err := b.CleanUp(b.ctx(), b.Now)
		b.ok(err)
		if cleaned.Codes != 0 {
			t.Errorf("cleaned %+v", cleaned)
		}
		b.Now = b.Now.Add(31 * 24 * time.Hour)
		cleaned, err = b.CleanUp(b.ctx(), b.Now)
		b.ok(err)
		if cleaned.Codes != 253 { // 250, the published, the revoked one, and that of the first rendering
			t.Errorf("cleaned %+v", cleaned)
		}
		for _, id := range []issuance.CodeID{published.ID, revoked.ID, credential.Code} {
			_, err := b.Store.Code(b.ctx(), id)
			b.wantError(err, issuance.ErrNotFound)
		}
		_, err = b.DocumentByPath(b.ctx(), pathHash("p"), b.Now)
		b.wantError(err, issuance.ErrNotFound)
		for _, id := range []issuance.CodeID{abandoned.Code, used.Code, renewed.Code, long.ID} {
			_, err := b.Store.Code(b.ctx(), id)
			b.ok(err)
		}
		if n := len(b.trail(audit.Filter{Code: string(revoked.ID)})); n != 2 {
			t.Errorf("the trail has %d rows of a code that left, want 2", n)
		}
	},
	"AccountWhoseOrdersLeftLeaves": func(t *testing.T, b *Bench) {
		_, value := b.Mint()
		b.Pending(value)
		b.Now = b.Now.Add(26 * time.Hour)
		cleaned, err := b.CleanUp(b.ctx(), b.Now)
		b.ok(err)
		if cleaned.Orders != 1 || cleaned.Accounts != 1 {
			t.Errorf("cleaned %+v", cleaned)
		}
	},
	"AuditNamesWhoAndWhatAndKeepsItsWord": func(t *testing.T, b *Bench) {
		c := b.Issued()
		rows := b.trail(audit.Filter{Code: string(c.Code)})
		var actions []audit.Action
		for _, r := range rows {
			actions = append(actions, r.Action)
			b.ok(audit.VerifyPersonal(r))
			if r.Personal == nil || r.Personal.From == "" {
				t.Errorf("%s does not say from where", r.Action)
			}
			if r.Directory != Directory || !r.Time.Equal(b.Now.Truncate(time.Microsecond)) {
				t.Errorf("%s: directory %q at %v", r.Action, r.Directory, r.Time)
			}
		}
		want := map[audit.Action]bool{audit.CodeMinted: true, audit.OrderCreated: true, audit.ChallengeAnswered: true, audit.IssueBegun: true, audit.IssueCompleted: true}
		for _, a := range actions {
			delete(want, a)
		}
		if len(want) != 0 || len(actions) != 5 {
			t.Errorf("audited %v", actions)
		}
		if n := len(b.trail(audit.Filter{Since: b.Now.Add(time.Second)})); n != 0 {
			t.Errorf("%d rows from the future", n)
		}
		if n := len(b.trail(audit.Filter{Until: b.Now.Add(time.Second), Order: string(c.Order)})); n != 4 {
			t.Errorf("%d rows of the order, want 4", n)
		}
	},
}
