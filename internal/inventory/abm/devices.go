package abm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of a listing.
const (
	maxCursor    = 4 << 10
	maxSerial    = 255
	maxAttribute = 1 << 10
)

// Device is a device of the organization ("OrgDevice.Attributes"), with what Assay has a use for. A text
// that Apple leaves empty, or that has control characters or more than 1,024 bytes, is "".
type Device struct {
	Serial         string // serialNumber, else the resource's id, which is the same
	Model          string // deviceModel, such as "iPhone 15 Pro"
	ProductFamily  string // iPhone, iPad, Mac, AppleTV, Watch, Vision
	ProductType    string // such as "iPhone16,1"
	Capacity       string
	Color          string
	PartNumber     string
	OrderNumber    string
	PurchaseSource string // APPLE, RESELLER, MANUALLY_ADDED
	Status         string // ASSIGNED or UNASSIGNED (to a device management service)
	// ReleasedAt is when the device was released from the organization; zero if it was not. Only answers about
	// one device say so, not listings ("Batch device queries aren't currently supported for this property").
	ReleasedAt time.Time
}

// fields are the attributes that are asked for: no more of a person's device than is used.
var fields = strings.Join([]string{
	"serialNumber", "deviceModel", "productFamily", "productType", "deviceCapacity", "color", "partNumber", "orderNumber",
	"purchaseSourceType", "status", "releasedFromOrgDateTime",
}, ",")

// Page is one page of a listing.
type Page struct {
	Devices []Device
	Faults  []Fault // of devices that cannot be used
	Next    string  // cursor of the page behind; "" for the last one
	Total   int     // devices of the listing; 0 if the service does not say
}

// Fault is a device of a listing that cannot be used.
type Fault struct {
	Serial string // shortened; "" if it has none
	Why    string
}

// Pages lists the devices of the organization behind a cursor ("" for the first page), page after page. A
// listing that goes in circles, or on and on, is an error; the first error, mostly an *Error, ends it. While it
// goes on, devices that come or go may be listed twice, or be missed until the next one.
func (c *Client) Pages(ctx context.Context, cursor string) iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		seen := map[string]bool{cursor: true}
		var before []Device
		for range c.config.MaxPages {
			page, err := c.page(ctx, cursor)
			if err == nil && page.Next != "" && seen[page.Next] {
				err = circling("it names a page that was read already as the next one")
			}
			// Under ever new cursors, the same page for ever.
			if err == nil && len(page.Devices) > 0 && slices.Equal(page.Devices, before) {
				err = circling("it sends the same devices once more as the next page")
			}
			if err != nil {
				yield(Page{}, err)
				return
			}
			if !yield(page, nil) || page.Next == "" {
				return
			}
			cursor, before = page.Next, page.Devices
			seen[cursor] = true
		}
		yield(Page{}, circling(fmt.Sprintf("there are more than %d pages", c.config.MaxPages)))
	}
}

func circling(how string) *Error {
	return &Error{Call: listCall, Check: CheckAnswer, Err: errors.New("the listing does not end: " + how), Tries: 1}
}

// page reads one page. Limit and fields are repeated with every cursor: a cursor alone gives pages of the
// service's default size, with everything that it knows.
func (c *Client) page(ctx context.Context, cursor string) (Page, error) {
	query := url.Values{"limit": {strconv.Itoa(c.config.PageSize)}, "fields[orgDevices]": {fields}}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	return get(ctx, c, listCall, "orgDevices", query, func(body []byte) (Page, error) { return parsePage(body, c.config.PageSize) })
}

// Device asks for one device, listed or not. CheckMissing is the check that fails where the organization has
// no such device (any more).
func (c *Client) Device(ctx context.Context, serial string) (Device, error) {
	query := url.Values{"fields[orgDevices]": {fields}}
	device, err := get(ctx, c, deviceCall, "orgDevices/"+url.PathEscape(serial), query, parseDevice)
	if fault, ok := errors.AsType[*Error](err); ok { // it is kept longer than the device may be
		fault.Said = strings.ReplaceAll(fault.Said, serial, "…")
	}
	return device, err
}

// resource is a device as the API writes it (JSON:API). What is not read here may be of any type.
type resource struct {
	Type       string `json:"type"`
	ID         string `json:"id"`
	Attributes struct {
		SerialNumber            string `json:"serialNumber"`
		DeviceModel             string `json:"deviceModel"`
		ProductFamily           string `json:"productFamily"`
		ProductType             string `json:"productType"`
		DeviceCapacity          string `json:"deviceCapacity"`
		Color                   string `json:"color"`
		PartNumber              string `json:"partNumber"`
		OrderNumber             string `json:"orderNumber"`
		PurchaseSourceType      string `json:"purchaseSourceType"`
		Status                  string `json:"status"`
		ReleasedFromOrgDateTime string `json:"releasedFromOrgDateTime"`
	} `json:"attributes"`
}

// parsePage reads a page of at most limit devices.
func parsePage(body []byte, limit int) (Page, error) {
	var answer struct {
		Data  *[]resource `json:"data"`
		Links struct {
			Next string `json:"next"`
		} `json:"links"`
		Meta struct {
			Paging struct {
				NextCursor string `json:"nextCursor"`
				Total      int    `json:"total"`
			} `json:"paging"`
		} `json:"meta"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return Page{}, notJSON(err)
	}
	// An answer without data must not be taken for an organization without devices.
	if answer.Data == nil {
		return Page{}, errors.New("the answer has no data")
	}
	if len(*answer.Data) > limit {
		return Page{}, fmt.Errorf("the answer has %d devices where at most %d were asked for", len(*answer.Data), limit)
	}
	next, err := nextCursor(answer.Meta.Paging.NextCursor, answer.Links.Next)
	if err != nil {
		return Page{}, err
	}
	page := Page{Next: next, Total: max(0, answer.Meta.Paging.Total)}
	for _, r := range *answer.Data {
		device, fault, err := r.device()
		switch {
		case err != nil:
			return Page{}, err
		case fault != nil:
			page.Faults = append(page.Faults, *fault)
		default:
			page.Devices = append(page.Devices, device)
		}
	}
	return page, nil
}

// nextCursor is the cursor of the next page. Apple's example has it twice, in meta and in the link; of a link
// nothing but the cursor is taken, because the token must not go where an answer says.
func nextCursor(cursor, link string) (string, error) {
	if cursor == "" && link != "" {
		u, err := url.Parse(link)
		if err != nil || u.Query().Get("cursor") == "" {
			return "", errors.New("the link to the next page has no cursor")
		}
		cursor = u.Query().Get("cursor")
	}
	if len(cursor) > maxCursor || !utf8.ValidString(cursor) || strings.ContainsFunc(cursor, unicode.IsControl) {
		return "", fmt.Errorf("the cursor of the next page is no text of at most %d bytes", maxCursor)
	}
	return cursor, nil
}

// parseDevice reads the answer about one device.
func parseDevice(body []byte) (Device, error) {
	var answer struct {
		Data *resource `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return Device{}, notJSON(err)
	}
	if answer.Data == nil {
		return Device{}, errors.New("the answer has no data")
	}
	device, fault, err := answer.Data.device()
	if fault != nil {
		return Device{}, errors.New(fault.Why)
	}
	return device, err
}

// device is the resource as a device. A fault is the device's alone; an error is of the whole answer, which
// is then something else than was asked for.
func (r *resource) device() (Device, *Fault, error) {
	if r.Type != "orgDevices" {
		return Device{}, nil, fmt.Errorf("the answer holds %.40q where devices were asked for", r.Type)
	}
	a := &r.Attributes
	serial := a.SerialNumber
	if serial == "" {
		serial = r.ID
	}
	if why := faultOf(serial); why != "" {
		return Device{}, &Fault{Serial: presentable(serial), Why: why}, nil
	}
	device := Device{
		Serial: serial, Model: attribute(a.DeviceModel), ProductFamily: attribute(a.ProductFamily), ProductType: attribute(a.ProductType),
		Capacity: attribute(a.DeviceCapacity), Color: attribute(a.Color), PartNumber: attribute(a.PartNumber),
		OrderNumber: attribute(a.OrderNumber), PurchaseSource: attribute(a.PurchaseSourceType), Status: attribute(a.Status),
	}
	if a.ReleasedFromOrgDateTime == "" {
		return device, nil, nil
	}
	var err error
	if device.ReleasedAt, err = time.Parse(time.RFC3339Nano, a.ReleasedFromOrgDateTime); err != nil {
		return Device{}, nil, errors.New("releasedFromOrgDateTime is no date and time")
	}
	return device, nil, nil
}

// faultOf says why a serial number cannot be used; "" if it can. Serial numbers are compared exactly, so one
// with blanks or control characters would be another device's.
func faultOf(serial string) string {
	switch {
	case serial == "":
		return "it has no serial number"
	case len(serial) > maxSerial:
		return fmt.Sprintf("its serial number has %d bytes, but the limit is %d", len(serial), maxSerial)
	case strings.ContainsFunc(serial, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "its serial number has blanks or other characters that no serial number has"
	}
	return ""
}

// attribute is a text of a device, or "" for one that no inventory holds.
func attribute(text string) string {
	text = strings.TrimSpace(text)
	if len(text) > maxAttribute || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }) {
		return ""
	}
	return text
}
