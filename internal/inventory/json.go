package inventory

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode/utf8"
)

// ReadJSON yields the devices of a JSON file: an array of objects, or one object behind another (NDJSON).
// Every member of an object is text; "serial" and "udid" name the device, all others are kept as labels,
// as the columns of ReadCSV are. Line is the number of the device, from 1. Behind a device that cannot be
// used, a *RowError, the sequence goes on; any other error ends it.
func ReadJSON(r io.Reader) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		text, err := skipMark(r)
		if err != nil {
			yield(Row{}, err)
			return
		}
		bounded := &boundedReader{r: text}
		buffered := bufio.NewReader(bounded)
		bounded.left = MaxRecord
		inArray, err := openArray(buffered)
		if err != nil {
			yield(Row{}, err)
			return
		}
		decoder := json.NewDecoder(buffered)
		if inArray {
			_, _ = decoder.Token() // the bracket that was seen
		}
		for n := 1; ; n++ {
			bounded.left = 2 * MaxRecord // the decoder reads ahead
			if inArray && !decoder.More() {
				if _, err := decoder.Token(); err != nil { // no bracket: the list was cut off
					yield(Row{}, fmt.Errorf("after device %d: %w", n-1, jsonFault(err)))
				}
				return
			}
			var object json.RawMessage
			if err := decoder.Decode(&object); errors.Is(err, io.EOF) && !inArray {
				return
			} else if err != nil {
				yield(Row{}, fmt.Errorf("device %d: %w", n, jsonFault(err)))
				return
			}
			row, err := rowOf(n, object)
			if err != nil {
				err = &RowError{Line: n, Err: err}
			}
			if !yield(row, err) {
				return
			}
		}
	}
}

func jsonFault(err error) error {
	if errors.Is(err, errTooLong) {
		return fmt.Errorf("it is longer than %d bytes", MaxRecord)
	}
	return fmt.Errorf("this is no JSON: %w", err)
}

// openArray reports whether the text is an array, by its first character, which it leaves.
func openArray(r *bufio.Reader) (bool, error) {
	for {
		c, err := r.ReadByte()
		if errors.Is(err, io.EOF) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		if strings.ContainsRune(" \t\r\n", rune(c)) {
			continue
		}
		return c == '[', r.UnreadByte()
	}
}

// rowOf reads one device.
func rowOf(n int, object json.RawMessage) (Row, error) {
	row := Row{Line: n}
	if len(object) > MaxRecord {
		return row, fmt.Errorf("it is longer than %d bytes", MaxRecord)
	}
	if !utf8.Valid(object) {
		return row, errors.New("it is not UTF-8")
	}
	decoder := json.NewDecoder(bytes.NewReader(object))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return row, errors.New("it is no object")
	}
	seen := map[string]bool{}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return row, err
		}
		name, _ := key.(string)
		if seen[name] || len(seen) == MaxColumns || name == "" || len(name) > MaxField {
			return row, fmt.Errorf("member %.40q stands twice, is one of more than %d, or has no usable name", name, MaxColumns)
		}
		seen[name] = true
		value, err := decoder.Token()
		if err != nil {
			return row, err
		}
		text, isText := value.(string)
		if value != nil && !isText {
			return row, fmt.Errorf("member %.40q is no text: write it in quotes; a label stands beside the serial number", name)
		}
		if err := row.set(name, text); err != nil {
			return row, err
		}
	}
	if row.Serial == "" && row.UDID == "" {
		return row, errors.New("neither a serial nor a UDID")
	}
	return row, nil
}

// set sets a value by the name that lists give it.
func (r *Row) set(name, value string) error {
	if err := checkField(value); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	key := strings.ToLower(name)
	switch {
	case key == "serial" || key == "udid":
		if strings.TrimSpace(value) != value {
			return fmt.Errorf("%q: blanks around the value; serials compare exactly, so remove them", name)
		}
		if key == "serial" {
			r.Serial = value
		} else {
			r.UDID = value
		}
	case value != "":
		if r.Labels == nil {
			r.Labels = make(map[string]string)
		}
		r.Labels[name] = value
	}
	return nil
}
