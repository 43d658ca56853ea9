//go:build otel

package tracing

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// queue is where spans wait to be sent. A span never waits for a place in it: without one it is dropped, and counted.
// It is a span processor around the SDK's own, which would not tell how many it drops, and an exporter inside it, which
// counts what comes of each batch.
type queue struct {
	sdk.SpanProcessor
	exporter sdk.SpanExporter
	size     int64
	waiting  atomic.Int64 // spans that ended and are neither sent nor lost
	metrics  *Metrics
	loss     loss

	mu   sync.Mutex // of counting what came of spans
	over bool       // what waits was given up
}

func newQueue(exporter sdk.SpanExporter, metrics *Metrics, log *slog.Logger) *queue {
	q := &queue{exporter: exporter, size: sdk.DefaultMaxQueueSize, metrics: metrics, loss: loss{log: log, now: time.Now}}
	if n, err := strconv.Atoi(os.Getenv("OTEL_BSP_MAX_QUEUE_SIZE")); err == nil && n > 0 {
		q.size = int64(n)
	}
	q.SpanProcessor = sdk.NewBatchSpanProcessor((*sender)(q), sdk.WithMaxQueueSize(int(q.size)))
	return q
}

// OnEnd puts a span into the queue. As many as fit are in the SDK's queue and in the batch that it makes.
func (q *queue) OnEnd(s sdk.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if q.waiting.Add(1) > q.size {
		q.waiting.Add(-1)
		q.lost(1, resultDropped, nil)
		return
	}
	q.SpanProcessor.OnEnd(s)
}

func (q *queue) lost(n int, result string, err error) {
	q.metrics.Spans.WithLabelValues(result).Add(float64(n))
	q.loss.note(n, err)
}

// giveUp counts what was not sent in time as dropped.
func (q *queue) giveUp() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.over = true
	if n := q.waiting.Load(); n > 0 {
		q.lost(int(n), resultDropped, errors.New("the program ends"))
	}
	q.loss.sum()
}

// sender sends batches. What fails is its own to tell, not the SDK's.
type sender queue

func (q *sender) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := q.exporter.ExportSpans(ctx, spans)
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.over: // they were counted as lost
	case err != nil:
		(*queue)(q).lost(len(spans), resultFailed, err)
	default:
		q.metrics.Spans.WithLabelValues(resultSent).Add(float64(len(spans)))
	}
	q.waiting.Add(-int64(len(spans)))
	return nil
}

func (q *sender) Shutdown(ctx context.Context) error { return q.exporter.Shutdown(ctx) }

// lossPause is how long after a line about lost spans no other is written.
const lossPause = time.Minute

// loss tells the log of lost spans, at once and then a minute later at the earliest.
type loss struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	n    int   // since the last line
	err  error // the last
	told time.Time
}

func (l *loss) note(n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n += n
	if err != nil {
		l.err = err
	}
	if now := l.now(); l.told.IsZero() || now.Sub(l.told).Abs() >= lossPause {
		l.told = now
		l.tell()
	}
}

// sum tells what was not told yet.
func (l *loss) sum() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n > 0 {
		l.tell()
	}
}

func (l *loss) tell() {
	attrs := []any{"spans", l.n, "hint", "see docs/tracing.md; requests are not affected"}
	if l.err != nil {
		attrs = append(attrs, "error", l.err)
	}
	l.log.Warn("spans of traces were lost", attrs...)
	l.n, l.err = 0, nil
}
