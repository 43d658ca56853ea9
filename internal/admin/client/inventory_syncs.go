package client

import (
	"context"
	"net/http"

	"assay/internal/admin"
)

// InventorySyncs says where the inventory stands with each list that it is kept in step with.
func (c *Client) InventorySyncs(ctx context.Context) ([]admin.InventorySync, error) {
	got, err := one[struct {
		Items []admin.InventorySync `json:"items"`
	}](ctx, c, request{method: http.MethodGet, path: "/inventory/syncs"})
	return got.Items, err
}

// StartInventorySync starts a sync, which goes on by itself.
func (c *Client) StartInventorySync(ctx context.Context, how admin.StartSync) (admin.InventorySync, error) {
	return one[admin.InventorySync](ctx, c, request{method: http.MethodPost, path: "/inventory/syncs", body: how})
}
