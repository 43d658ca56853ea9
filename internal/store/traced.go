package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"assay/internal/tracing"
)

// traced begins the span of a change or a read.
func (s *Store) traced(ctx context.Context, what string) (context.Context, tracing.Span) {
	ctx, span := tracing.Start(ctx, what)
	span.Set(tracing.Database, s.system)
	return ctx, span
}

// tracedReads shows each read in the trace of the request that it is for, by the table that it is from.
type tracedReads struct {
	querier
	store *Store
}

func (r tracedReads) row(ctx context.Context, query string, args ...any) scanner {
	if !tracing.Recording(ctx) {
		return r.querier.row(ctx, query, args...)
	}
	ctx, span := r.store.traced(ctx, "read "+tableOf(query))
	row := r.querier.row(ctx, query, args...)
	return scanFunc(func(into ...any) error {
		err := row.Scan(into...)
		failed := err
		if errors.Is(err, sql.ErrNoRows) { // to be told so is an answer
			failed = nil
		}
		span.End(&failed)
		return err
	})
}

func (r tracedReads) rows(ctx context.Context, each func(scanner) error, query string, args ...any) (err error) {
	if !tracing.Recording(ctx) {
		return r.querier.rows(ctx, each, query, args...)
	}
	ctx, span := r.store.traced(ctx, "read "+tableOf(query))
	defer span.End(&err)
	return r.querier.rows(ctx, each, query, args...)
}

func (r tracedReads) ask(ctx context.Context, questions ...question) (err error) {
	if !tracing.Recording(ctx) {
		return r.querier.ask(ctx, questions...)
	}
	ctx, span := r.store.traced(ctx, "read "+tableOf(questions[0].query))
	defer span.End(&err)
	return r.querier.ask(ctx, questions...)
}

// tableOf is the first table that a statement of the store names.
func tableOf(query string) string {
	for words := strings.Fields(query); len(words) > 1; words = words[1:] {
		if name := strings.TrimRight(words[1], "),;"); strings.EqualFold(words[0], "from") && isName(name) {
			return name
		}
	}
	return "database"
}

func isName(text string) bool {
	return text != "" && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz_") == ""
}
