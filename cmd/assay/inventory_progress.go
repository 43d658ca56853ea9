package main

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"assay/internal/admin"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// syncProgress shows how far a sync, or another long piece of work, is: by a spinner where people watch, else by a line now and then.
type syncProgress struct {
	err   io.Writer
	now   func() time.Time
	last  time.Time
	quiet bool

	bars *mpb.Progress // nil: nobody watches
	bar  *mpb.Bar
	text atomic.Pointer[string]
}

func newSyncProgress(term *terminal, g *globals) *syncProgress {
	p := &syncProgress{err: term.Err, now: term.Now, last: term.Now(), quiet: g.JSON}
	if _, watched := screen(term.Err); !watched || g.JSON {
		return p
	}
	p.text.Store(new(string))
	p.bars = mpb.New(mpb.WithOutput(term.Err))
	// How many there are is known only at the end: Apple says it seldom.
	p.bar = p.bars.AddSpinner(0, mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + *p.text.Load() })))
	return p
}

func (p *syncProgress) show(run *admin.SyncRun) {
	if run != nil {
		p.say(fmt.Sprintf("%s read, %d new, %d changed", syncText(run), run.New, run.Changed))
	}
}

// say shows how far the work is, in a few words.
func (p *syncProgress) say(text string) {
	if p.quiet {
		return
	}
	if p.bar != nil {
		p.text.Store(&text)
		return
	}
	if now := p.now(); now.Sub(p.last) >= progressInterval {
		p.last = now
		fmt.Fprintln(p.err, text)
	}
}

// end takes the spinner away.
func (p *syncProgress) end() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bars.Wait()
	}
}
