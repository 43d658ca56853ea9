package admin

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"assay/internal/issuance"
	"assay/internal/lifetime"
)

// Limits of what is written down of a device, as in lists of devices.
const (
	maxName  = 255     // bytes of a serial number or UDID
	maxKey   = 64      // bytes of a label's name
	maxValue = 4 << 10 // bytes of a label's value
)

// malformedMember is the refusal of one member of a request.
func malformedMember(check, at, message string) *Problem {
	message = shorten(message)
	p := refuse(http.StatusUnprocessableEntity, check, "%s: %s", at, message)
	p.Errors = []Fault{{Message: message, Location: at}}
	return p
}

// checkDevice refuses what no device is called, and what would break terminals and tables later.
func checkDevice(serial, udid string, labels map[string]string, at string) *Problem {
	for _, one := range []struct{ name, value string }{{"serial", serial}, {"udid", udid}} {
		if err := checkText(one.value, maxName); err != nil {
			return malformedMember("device-named", at+"."+one.name, err.Error())
		}
		// Serials compare exactly: one with a blank would belong to no device.
		if strings.TrimSpace(one.value) != one.value {
			return malformedMember("device-named", at+"."+one.name, "blanks around the value")
		}
	}
	return checkLabels(labels, at)
}

func checkLabels(labels map[string]string, at string) *Problem {
	if len(labels) > issuance.MaxLabels {
		return malformedMember("labels", at+".labels", fmt.Sprintf("%d labels, but the limit is %d", len(labels), issuance.MaxLabels))
	}
	if n := issuance.LabelBytes(labels); n > issuance.MaxLabelBytes {
		return malformedMember("labels", at+".labels", fmt.Sprintf("%d bytes of labels, but the limit is %d", n, issuance.MaxLabelBytes))
	}
	for name, value := range labels {
		err := checkText(name, maxKey)
		if name == "" {
			err = errors.New("a label has no name")
		}
		if err == nil {
			err = checkText(value, maxValue)
		}
		if err != nil {
			return malformedMember("labels", at+".labels", err.Error())
		}
	}
	return nil
}

func checkText(text string, most int) error {
	switch {
	case len(text) > most:
		return fmt.Errorf("%d bytes, but the limit is %d", len(text), most)
	// Decoders put U+FFFD where text was not UTF-8, or half a surrogate pair: different names become one.
	case strings.ContainsRune(text, utf8.RuneError):
		return errors.New("a character that is not UTF-8, or was lost on its way here (U+FFFD)")
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("control characters in the value")
	}
	return nil
}

// parseLifetime reads how long something lives: longer than not at all, and at most so long.
func parseLifetime(text string, most time.Duration) (time.Duration, error) {
	d, err := lifetime.Parse(text)
	if err == nil && (d <= 0 || d > most) {
		err = fmt.Errorf("%.20q is not between 1s and %s", text, lifetime.Text(most))
	}
	return d, err
}
