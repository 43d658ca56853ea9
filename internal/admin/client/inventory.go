package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"assay/internal/admin"
)

// ImportDevices takes a part of a list, at most 500 devices, into the inventory, all or none.
func (c *Client) ImportDevices(ctx context.Context, list admin.ImportDevices) ([]admin.ImportedDevice, error) {
	got, err := one[admin.ImportedDevices](ctx, c, request{method: http.MethodPost, path: "/devices/import", body: list})
	return got.Results, err
}

// SetDeviceState says where a device stands, if it still has the ETag ifMatch ("": whatever it has).
func (c *Client) SetDeviceState(ctx context.Context, id string, state admin.SetDeviceState, ifMatch string) (admin.DeviceState, error) {
	return one[admin.DeviceState](ctx, c, request{method: http.MethodPost, path: "/devices/" + url.PathEscape(id) + "/state", body: state, ifMatch: ifMatch})
}

// Conflicts lists what contradicts the inventory, oldest first: of a device ("": of all), those that are
// open, or all.
func (c *Client) Conflicts(ctx context.Context, device string, all bool) iter.Seq2[admin.Conflict, error] {
	return list[admin.Conflict](ctx, c, "/conflicts", params("device", device, "all", flag(all)))
}

// ResolveConflict ends a conflict.
func (c *Client) ResolveConflict(ctx context.Context, id string) (admin.Conflict, error) {
	return one[admin.Conflict](ctx, c, request{method: http.MethodPost, path: "/conflicts/" + url.PathEscape(id) + "/resolve"})
}

// DeviceData returns everything that is stored about a device.
func (c *Client) DeviceData(ctx context.Context, id string) (admin.DeviceData, error) {
	return one[admin.DeviceData](ctx, c, request{method: http.MethodGet, path: "/devices/" + url.PathEscape(id) + "/data"})
}

// ForgetDevice erases what is stored about a device, and revokes its valid certificates if it shall.
func (c *Client) ForgetDevice(ctx context.Context, id string, revoke bool) (admin.ForgottenDevice, error) {
	return one[admin.ForgottenDevice](ctx, c, request{method: http.MethodPost, path: "/devices/" + url.PathEscape(id) + "/forget", body: admin.ForgetDevice{Revoke: revoke}})
}
