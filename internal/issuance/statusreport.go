package issuance

// Merge is what is known after a newer report: devices send what changed, so what the newer report
// does not name stays as it was.
func (r StatusReport) Merge(newer StatusReport) StatusReport {
	r.ReceivedAt = newer.ReceivedAt
	if newer.Asset != nil {
		r.Asset = newer.Asset
	}
	if newer.Configuration != nil {
		r.Configuration = newer.Configuration
	}
	if newer.Installed != "" || newer.Uninstalled {
		r.Installed, r.Uninstalled = newer.Installed, newer.Uninstalled
	}
	return r
}
