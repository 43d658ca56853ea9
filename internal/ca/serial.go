package ca

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
)

// serialBytes is the largest serial number that RFC 5280, section 4.1.2.2, lets a CA use, in bytes.
const serialBytes = 20

// NewSerial makes a serial number from 20 bytes of random: positive, of at most 20 bytes in DER, with
// 159 random bits. Its text is lower-case hex of 40 digits, as FormatSerial writes it.
func NewSerial(random io.Reader) (text string, serial *big.Int, err error) {
	var raw [serialBytes]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", nil, fmt.Errorf("make serial number: %w", err)
	}
	// A set top bit would be a sign in DER, and take a 21st byte.
	raw[0] &= 0x7f
	serial = new(big.Int).SetBytes(raw[:])
	if serial.Sign() == 0 {
		return "", nil, errors.New("make serial number: the source of randomness gives zeros")
	}
	return FormatSerial(serial), serial, nil
}

// FormatSerial writes a serial number as lower-case hex, with leading zeros to 40 digits.
func FormatSerial(serial *big.Int) string { return fmt.Sprintf("%0*x", 2*serialBytes, serial) }

// ParseSerial reads what FormatSerial writes, and nothing else, so that one serial has one text.
func ParseSerial(text string) (*big.Int, error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != serialBytes {
		return nil, fmt.Errorf("serial number is not %d hex digits", 2*serialBytes)
	}
	serial := new(big.Int).SetBytes(raw)
	if FormatSerial(serial) != text {
		return nil, errors.New("serial number is not lower-case hex")
	}
	if err := checkSerial(serial); err != nil {
		return nil, err
	}
	return serial, nil
}

func checkSerial(serial *big.Int) error {
	if serial == nil || serial.Sign() <= 0 || serial.BitLen() > 8*serialBytes-1 {
		return fmt.Errorf("serial number is not positive and of at most %d bytes", serialBytes)
	}
	return nil
}

// ShardOf is the CRL shard of a new certificate: 0 to shards-1, evenly spread since serials are
// random. The certificate names its shard's URL for good; so the shard is recorded with the
// certificate, and never computed again when the number of shards has changed.
func ShardOf(serial *big.Int, shards int) int {
	if shards <= 1 {
		return 0
	}
	return int(new(big.Int).Mod(serial, big.NewInt(int64(shards))).Int64())
}
