package store

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"assay/internal/issuance"
)

// pageLength is how many rows a list reads at a time: memory stays flat, and no read transaction
// stays open while the caller works.
const pageLength = 200

const pageLimit = " LIMIT CAST(? AS bigint)"

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

// list is how rows are listed.
type list[T any] struct {
	what    string // for errors
	columns string // SELECT … FROM …
	key     string // the columns that order the list, unique together
	scan    func(scanner) (T, error)
	// keyOf is a row's values of the key, in the form in which they are stored.
	keyOf func(*T) []any
	// find reads the row with an id, where the key is more than the id; nil where it is the id.
	find func(id string) (T, error)
}

// rows yields the rows that match, in the order of the key: those behind the row with the id
// page.After, and at most page.Limit of them.
func (l *list[T]) rows(ctx context.Context, r querier, q *selection, page issuance.Page) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		after, err := l.start(page.After)
		for left := page.Limit; err == nil; {
			length := pageLength
			if page.Limit > 0 {
				length = min(length, left)
			}
			var rows []T
			if rows, err = l.read(ctx, r, q, after, length); err != nil {
				break
			}
			for i := range rows {
				if !yield(rows[i], nil) {
					return
				}
			}
			left -= len(rows)
			if len(rows) < length || page.Limit > 0 && left == 0 {
				return
			}
			after = l.keyOf(&rows[len(rows)-1])
		}
		var none T
		yield(none, fmt.Errorf("%s: %w", l.what, err))
	}
}

// start is the key of the row with an id, nil for no id.
func (l *list[T]) start(id string) ([]any, error) {
	if id == "" {
		return nil, nil
	}
	if l.find == nil {
		return []any{id}, nil
	}
	row, err := l.find(id)
	if err != nil {
		return nil, err
	}
	return l.keyOf(&row), nil
}

// read reads the next rows, at most pageLength of them.
func (l *list[T]) read(ctx context.Context, r querier, q *selection, after []any, length int) ([]T, error) {
	where, args := q.where, q.args
	if after != nil {
		marks := strings.TrimSuffix(strings.Repeat("?, ", len(after)), ", ")
		where = append(where[:len(where):len(where)], fmt.Sprintf("(%s) > (%s)", l.key, marks))
		args = append(args[:len(args):len(args)], after...)
	}
	query := l.columns
	if len(where) > 0 {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	// The length is no part of the text, by which statements are kept prepared; and no mere parameter, for which
	// SQLite would compile them anew each time.
	query += " ORDER BY " + l.key + pageLimit
	rows := make([]T, 0, length)
	err := r.rows(ctx, func(row scanner) error {
		v, err := l.scan(row)
		rows = append(rows, v)
		return err
	}, query, append(args[:len(args):len(args)], length)...)
	return rows, err
}
