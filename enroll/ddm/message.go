package ddm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/micromdm/plist"

	"assay/enroll"
)

// Messages of Apple's MDM protocol, as far as the device speaks it.

type authenticate struct {
	MessageType, Topic, UDID, SerialNumber, OSVersion, ProductName, Model, ModelName, DeviceName string
}

type tokenUpdate struct {
	MessageType, Topic, UDID, PushMagic string
	Token                               []byte
	AwaitingConfiguration               bool
}

type declarativeManagement struct {
	MessageType, UDID, Endpoint string
	Data                        []byte `plist:",omitempty"` // a status report
}

type commandResult struct {
	UDID, Status string
	CommandUUID  string         `plist:",omitempty"`
	ErrorChain   []commandError `plist:",omitempty"`
}

type commandError struct {
	ErrorCode                                               int
	ErrorDomain, LocalizedDescription, USEnglishDescription string
}

// command is a command of the MDM's.
type command struct {
	CommandUUID string
	Command     struct {
		RequestType string
		Data        []byte // of DeclarativeManagement: the tokens, to save a request
	}
}

// pushTopic stands where the topic of the MDM's push certificate would: nothing is pushed to a
// device that does not exist.
const pushTopic = "com.apple.mgmt.External.00000000-0000-0000-0000-000000000000"

func newAuthenticate(d *enroll.Device) authenticate {
	return authenticate{
		MessageType: "Authenticate", Topic: pushTopic, UDID: d.UDID, SerialNumber: d.Serial, OSVersion: d.OSVersion,
		ProductName: d.ProductType, Model: d.ProductType, ModelName: string(d.Class), DeviceName: "Simulated " + string(d.Class),
	}
}

func newTokenUpdate(d *enroll.Device) tokenUpdate {
	return tokenUpdate{
		MessageType: "TokenUpdate", Topic: pushTopic, UDID: d.UDID,
		PushMagic: "simulated", Token: []byte("simulated device: no push"),
	}
}

// parseCommand reads the next command; nil for none. XML only: MDM servers send nothing else.
func parseCommand(data []byte) (*command, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("<")) {
		return nil, errors.New("MDM: the command is no XML property list")
	}
	c := &command{}
	if err := plist.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("MDM: read command: %w", err)
	}
	if c.CommandUUID == "" || len(c.CommandUUID) > 255 || c.Command.RequestType == "" {
		return nil, errors.New("MDM: the command has no CommandUUID or RequestType")
	}
	return c, nil
}
