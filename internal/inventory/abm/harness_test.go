package abm_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"assay/internal/inventory/abm"
	"assay/internal/inventory/abm/abmtest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that only waiting moves.
type clock struct {
	mu     sync.Mutex
	now    time.Time
	waited []time.Duration
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Wait(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.waited = append(c.waited, d)
	return ctx.Err()
}

// total is how long was waited in all.
func (c *clock) total() (sum time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.waited {
		sum += d
	}
	return sum
}

// rig is a client of a stand-in, both with one clock.
type rig struct {
	*abm.Client
	service *abmtest.Service
	clock   *clock
	config  abm.Config
}

// newRig makes a rig; change, if not nil, changes the client's configuration.
func newRig(t *testing.T, change func(*abm.Config)) *rig {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true} // else it repeats requests by itself
	r := &rig{service: abmtest.Start("business"), clock: &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}}
	t.Cleanup(func() { transport.CloseIdleConnections(); r.service.Close() })
	r.service.Now = r.clock.Now
	r.config = abm.Config{
		ClientID: r.service.ClientID, KeyID: r.service.KeyID, Key: r.service.Key, URL: r.service.URL, TokenURL: r.service.TokenURL,
		PageSize: 2, Transport: transport, Now: r.clock.Now, Wait: r.clock.Wait,
	}
	if change != nil {
		change(&r.config)
	}
	var err error
	if r.Client, err = abm.New(r.config); err != nil {
		t.Fatal(err)
	}
	return r
}

// put lists devices S1 to Sn.
func (r *rig) put(n int) {
	for i := range n {
		r.service.Put(abmtest.Device{Serial: fmt.Sprintf("S%d", i+1)})
	}
}

// read reads a whole listing behind a cursor.
func (r *rig) read(ctx context.Context, cursor string) (serials []string, pages int, err error) {
	for page, err := range r.Pages(ctx, cursor) {
		if err != nil {
			return serials, pages, err
		}
		pages++
		for _, d := range page.Devices {
			serials = append(serials, d.Serial)
		}
	}
	return serials, pages, nil
}
