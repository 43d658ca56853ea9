package store_test

import (
	"assay/internal/server"
	"assay/internal/store"
)

var _ server.Store = (*store.Store)(nil)
