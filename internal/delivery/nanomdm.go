package delivery

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"

	"github.com/micromdm/plist"
)

// MaxNanoMDMEventSize is the largest webhook event that is read, in bytes: a status report of
// MaxStatusSize in base64 in a property list in base64 in JSON.
const MaxNanoMDMEventSize = 2 << 20

// nanoMDMTopic is the topic of events of DeclarativeManagement check-ins.
const nanoMDMTopic = "mdm.DeclarativeManagement"

// ParseNanoMDMEvent takes the status report out of an event that NanoMDM's webhook sends (in the
// form of MicroMDM's webhook): a DeclarativeManagement check-in with the endpoint "status". ok is
// false for every other event. The report is as the device sent it: for ParseStatus.
func ParseNanoMDMEvent(data []byte) (status []byte, ok bool, err error) {
	if len(data) > MaxNanoMDMEventSize {
		return nil, false, fmt.Errorf("read NanoMDM event: %d bytes; the limit is %d", len(data), MaxNanoMDMEventSize)
	}
	var event struct {
		Topic        string `json:"topic"`
		CheckinEvent *struct {
			RawPayload string `json:"raw_payload"`
		} `json:"checkin_event"`
	}
	if err := json.Unmarshal(data, &event); err != nil {
		return nil, false, fmt.Errorf("read NanoMDM event: %w", err)
	}
	if event.Topic == "" {
		return nil, false, errors.New("read NanoMDM event: it has no topic")
	}
	if event.Topic != nanoMDMTopic {
		return nil, false, nil
	}
	if event.CheckinEvent == nil {
		return nil, false, errors.New("read NanoMDM event: checkin_event is missing")
	}
	raw, err := base64.StdEncoding.DecodeString(event.CheckinEvent.RawPayload)
	if err != nil {
		return nil, false, fmt.Errorf("read NanoMDM event: raw_payload: %w", err)
	}
	// Devices send XML; the binary form is one more parser for strangers' bytes.
	if bytes.HasPrefix(raw, []byte("bplist")) {
		return nil, false, errors.New("read NanoMDM event: raw_payload is a binary property list; check-ins are XML")
	}
	if err := checkDepth(raw); err != nil {
		return nil, false, fmt.Errorf("read NanoMDM event: raw_payload: %w", err)
	}
	var checkin struct {
		MessageType string
		Endpoint    string
		Data        []byte
	}
	if err := plist.Unmarshal(raw, &checkin); err != nil {
		return nil, false, fmt.Errorf("read NanoMDM event: raw_payload: %w", err)
	}
	if checkin.MessageType != "DeclarativeManagement" || checkin.Endpoint != "status" {
		return nil, false, nil
	}
	return checkin.Data, true, nil
}

// maxCheckinDepth bounds how deep a check-in is nested; a device's is plist, dict, value.
const maxCheckinDepth = 16

// checkDepth refuses XML that is nested deeper than any check-in: property lists are read recursively.
func checkDepth(data []byte) error {
	decoder := xml.NewDecoder(bytes.NewReader(data))
	for depth := 0; ; {
		token, err := decoder.RawToken()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		switch token.(type) {
		case xml.StartElement:
			depth++
		case xml.EndElement:
			depth--
		}
		if depth > maxCheckinDepth {
			return fmt.Errorf("nested deeper than %d", maxCheckinDepth)
		}
	}
}
