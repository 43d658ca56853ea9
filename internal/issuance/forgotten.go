package issuance

import "fmt"

// Forgotten counts what was erased of a device.
type Forgotten struct {
	Certificates int // whose content was erased; that they were issued stays
	Revoked      int // of these, which were valid
	Evidence     int // pieces
	AuditRows    int // whose personal values were erased
}

// HasCertificatesError: the device has valid certificates, which would not be found again to revoke them.
type HasCertificatesError struct {
	Device DeviceID
	Valid  int
}

func (e *HasCertificatesError) Error() string {
	return fmt.Sprintf("device %s has valid certificates (%d)", e.Device, e.Valid)
}
