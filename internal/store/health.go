package store

import "context"

// Ready says why the store cannot be used now; nil if it can.
func (s *Store) Ready(ctx context.Context) error { return s.db.ready(ctx) }
