package enroll

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"assay/credential"
)

// Class is a kind of device.
type Class string

// The classes of device that resolve ACME credentials.
const (
	IPhone  Class = "iphone"
	IPad    Class = "ipad"
	Mac     Class = "mac"
	AppleTV Class = "appletv"
	Watch   Class = "watch"
	Vision  Class = "vision"
)

// model is what the devices of a class have in common.
type model struct {
	platform credential.Platform
	chip     string // when none is named
	families string // first letters of the chips that the class has
	os       string // current system
	padded   int    // first major version of the system that keeps leading zeros of signatures
	product  string
}

var models = map[Class]model{
	IPhone:  {platform: credential.IOS, chip: "A15", families: "A", os: "18.5", padded: 18, product: "FakePhoneAP"},
	IPad:    {platform: credential.IPadOS, chip: "M2", families: "AM", os: "18.5", padded: 18, product: "FakePadAP"},
	Mac:     {platform: credential.MacOS, chip: "M3", families: "MTIA", os: "15.5", padded: 15, product: "FakeMacAP"},
	AppleTV: {platform: credential.TVOS, chip: "A15", families: "A", os: "18.5", padded: 18, product: "FakeTVAP"},
	Watch:   {platform: credential.WatchOS, chip: "S9", families: "S", os: "11.5", padded: 11, product: "FakeWatchAP"},
	Vision:  {platform: credential.VisionOS, chip: "M2", families: "M", os: "2.5", padded: 2, product: "FakeVisionAP"},
}

// Classes returns the classes in the order of their names.
func Classes() []Class {
	return []Class{AppleTV, IPad, IPhone, Mac, Vision, Watch}
}

// Device is a simulated device. Fields may be changed before the first use; NewDevice fills them
// all.
type Device struct {
	Class       Class  `json:"class"`
	Chip        string `json:"chip"` // e.g. A15, M2, S9, T2, Intel
	OSVersion   string `json:"osVersion"`
	Serial      string `json:"serial"`
	UDID        string `json:"udid"` // on a Mac the provisioning UDID
	ProductType string `json:"productType"`
}

// NewDevice invents a device. An empty chip is the class's usual one. Serial number and UDID are
// drawn from random and are plainly invented: the serial starts with FAKE, the UDID's random part
// with FACADE, which no real chip's identifier does.
func NewDevice(class Class, chip string, random io.Reader) (*Device, error) {
	m, ok := models[class]
	if !ok {
		return nil, fmt.Errorf("make device: unknown class %q", class)
	}
	if chip == "" {
		chip = m.chip
	}
	c, err := credential.ParseChip(chip)
	if err != nil {
		return nil, fmt.Errorf("make device: %w", err)
	}
	if !strings.Contains(m.families, c.Family()[:1]) {
		return nil, fmt.Errorf("make device: there is no %s with chip %s", class, chip)
	}
	serial, err := fakeSerial(random)
	if err != nil {
		return nil, err
	}
	udid, err := fakeUDID(c, random)
	if err != nil {
		return nil, err
	}
	return &Device{Class: class, Chip: c.String(), OSVersion: m.os, Serial: serial, UDID: udid, ProductType: m.product}, nil
}

// Attests reports whether the chip can attest a key; one that cannot ignores the document's Attest.
func (d *Device) Attests() bool {
	c, err := credential.ParseChip(d.Chip)
	return err == nil && c.Attests(models[d.Class].platform)
}

// HasEnclave reports whether the device can hold hardware-bound keys.
func (d *Device) HasEnclave() bool {
	c, err := credential.ParseChip(d.Chip)
	return err == nil && c.HoldsKeys(models[d.Class].platform)
}

// DropsZeros reports whether the system drops leading zero bytes of r and s when it signs requests,
// as systems before iOS 18, macOS 15 and their siblings do. A version that cannot be read counts
// as current.
func (d *Device) DropsZeros() bool {
	major, _, _ := strings.Cut(d.OSVersion, ".")
	number, err := strconv.Atoi(major)
	return err == nil && number < models[d.Class].padded
}

// fakeSerial is FAKE and eight characters from the alphabet of real serial numbers.
func fakeSerial(random io.Reader) (string, error) {
	const alphabet = "0123456789ABCDEFGHJKLMNPQRSTVWXY" // 32 characters: no bias
	b := make([]byte, 8)
	if _, err := io.ReadFull(random, b); err != nil {
		return "", fmt.Errorf("make serial number: %w", err)
	}
	for i := range b {
		b[i] = alphabet[b[i]%32]
	}
	return "FAKE" + string(b), nil
}

// chipIDs are the chip identifiers that UDIDs start with; a chip that is not listed gets 0000FFFF.
var chipIDs = map[string]string{
	"A12": "00008020", "A13": "00008030", "A14": "00008101", "A15": "00008110", "A16": "00008120",
	"A17": "00008130", "A18": "00008140", "M1": "00008103", "M2": "00008112", "M3": "00008122", "M4": "00008132",
}

// fakeUDID has the shape that the chip's UDIDs have: 8-16 hex digits, 40 before A12 and S4, and a
// UUID on Macs without Apple silicon.
func fakeUDID(c credential.Chip, random io.Reader) (string, error) {
	b := make([]byte, 20)
	if _, err := io.ReadFull(random, b); err != nil {
		return "", fmt.Errorf("make UDID: %w", err)
	}
	copy(b, []byte{0xFA, 0xCA, 0xDE})
	digits := strings.ToUpper(hex.EncodeToString(b))
	switch {
	case c.Family() == "T", c.Family() == "Intel":
		return strings.Join([]string{digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]}, "-"), nil
	case c.Family() == "A" && c.Generation() < 12, c.Family() == "S" && c.Generation() < 4:
		return strings.ToLower(digits), nil
	}
	id, ok := chipIDs[c.Family()+strconv.Itoa(c.Generation())]
	if !ok {
		id = "0000FFFF"
	}
	return id + "-" + digits[:16], nil
}

// check refuses a device that no run can use.
func (d *Device) check() error {
	if d == nil {
		return errors.New("no device")
	}
	if !slices.Contains(Classes(), d.Class) {
		return fmt.Errorf("unknown device class %q", d.Class)
	}
	if _, err := credential.ParseChip(d.Chip); err != nil {
		return err
	}
	return nil
}
