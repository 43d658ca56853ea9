package store

import "assay/internal/issuance"

// namesakes are what the inventory has by the names that somebody gives one device; zero where there is nothing.
// One device may stand there twice, because lists know different names of it.
type namesakes struct {
	bound    issuance.Device // the row that its code is bound to
	bySerial issuance.Device
	byUDID   issuance.Device
}

const (
	deviceOfRow    = `SELECT 'bound', ` + deviceColumns + ` FROM devices WHERE id = ?1`
	deviceOfClaim  = `SELECT 'bound', ` + deviceColumns + ` FROM devices WHERE id = ` + boundRow
	deviceBySerial = `SELECT 'serial', ` + deviceColumns + ` FROM devices WHERE serial <> '' AND serial = `
	deviceByUDID   = `SELECT 'udid', ` + deviceColumns + ` FROM devices WHERE udid_key <> '' AND udid_key = `
	devicesNamed   = deviceOfRow + ` UNION ALL ` + deviceBySerial + `?2 UNION ALL ` + deviceByUDID + `?3`

	// boundRow is the row that the code of a claimed certificate is bound to.
	boundRow = `(SELECT device FROM certificates WHERE id = ?1)`
)

// byNames asks for the row with an id, a serial number (compared exactly) and a UDID (compared without case); ""
// stands for none.
func (n *namesakes) byNames(row issuance.DeviceID, serial, udid string) question {
	return asking(n.take, devicesNamed, string(row), serial, udidKey(udid))
}

// byClaim asks, within a transaction, for the row that the code of a claimed certificate is bound to, and by the
// names that its evidence gives. Nobody changes the rows of these until the transaction ends.
func (n *namesakes) byClaim(claimed issuance.CertificateID, serial, udid string) []question {
	return []question{
		asking(n.take, deviceOfClaim, string(claimed)), // contested before: it is as old as the claim
		locking(n.take, deviceBySerial+`?1`, serial),
		locking(n.take, deviceByUDID+`?1`, udidKey(udid)),
	}
}

func (n *namesakes) take(row scanner) error {
	var name string
	var f deviceFields
	if err := row.Scan(append([]any{&name}, f.into()...)...); err != nil {
		return err
	}
	d, err := f.device()
	switch name {
	case "bound":
		n.bound = d
	case "serial":
		n.bySerial = d
	case "udid":
		n.byUDID = d
	}
	return err
}

// device is the one with the serial number, else the one with the UDID, unless that has another serial number:
// the serial number decides.
func (n *namesakes) device(serial string) issuance.Device {
	if n.bySerial.ID == "" && (serial == "" || n.byUDID.Serial == "") {
		return n.byUDID
	}
	return n.bySerial
}

// barred is the first of the rows that is lost or retired: it is enough that one of them bars the device. Zero if
// none does.
func (n *namesakes) barred() issuance.Device {
	for _, d := range []issuance.Device{n.bound, n.bySerial, n.byUDID} {
		if d.Barred() {
			return d
		}
	}
	return issuance.Device{}
}
