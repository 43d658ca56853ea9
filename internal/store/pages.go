package store

import (
	"context"
	"fmt"
	"iter"
	"strings"
)

// pageLength is how many rows a list reads at a time: memory stays flat, and no read transaction
// stays open while the caller works.
const pageLength = 200

// selection gathers the conditions of a list.
type selection struct {
	where []string
	args  []any
}

// and adds a condition with its argument, if it is wanted.
func (q *selection) and(condition string, arg any, wanted bool) {
	if wanted {
		q.where = append(q.where, condition)
		q.args = append(q.args, arg)
	}
}

// plain adds a condition without an argument, if it is wanted.
func (q *selection) plain(condition string, wanted bool) {
	if wanted {
		q.where = append(q.where, condition)
	}
}

// pages yields all rows that match, page after page, in the order of the key columns (which are
// unique together). keyOf returns their values of a row, in the form in which they are stored.
func pages[T any](ctx context.Context, r *reader, what string, q *selection, columns, key string,
	scan func(scanner) (T, error), keyOf func(*T) []any,
) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var after []any
		for {
			page := make([]T, 0, pageLength)
			where, args := q.where, q.args
			if after != nil {
				marks := strings.TrimSuffix(strings.Repeat("?, ", len(after)), ", ")
				where = append(where[:len(where):len(where)], fmt.Sprintf("(%s) > (%s)", key, marks))
				args = append(args[:len(args):len(args)], after...)
			}
			query := columns
			if len(where) > 0 {
				query += " WHERE " + strings.Join(where, " AND ")
			}
			query += fmt.Sprintf(" ORDER BY %s LIMIT %d", key, pageLength)
			err := r.rows(ctx, func(row scanner) error {
				v, err := scan(row)
				page = append(page, v)
				return err
			}, query, args...)
			if err != nil {
				var none T
				yield(none, fmt.Errorf("%s: %w", what, err))
				return
			}
			for i := range page {
				if !yield(page[i], nil) {
					return
				}
			}
			if len(page) < pageLength {
				return
			}
			after = keyOf(&page[len(page)-1])
		}
	}
}
