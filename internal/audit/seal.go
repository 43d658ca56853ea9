package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Hash is a SHA-256.
type Hash = [sha256.Size]byte

// Leaf is the hash of a row at its place in the order of commits. Personal values are in it by their
// commitment alone, so that they can be erased.
func Leaf(seq int64, r *Row) Hash {
	out := []byte{0} // leaves and nodes are hashed apart (RFC 6962, section 2.1)
	out = append(out, "assay audit row 1\x00"...)
	out = binary.BigEndian.AppendUint64(out, uint64(seq))
	out = binary.BigEndian.AppendUint64(out, uint64(r.Time.UnixMicro()))
	add := func(value string) {
		out = binary.BigEndian.AppendUint32(out, uint32(len(value)))
		out = append(out, value...)
	}
	for _, value := range []string{r.ID, string(r.Action), string(r.Outcome), r.Directory, r.Account, r.Order, r.Code, r.Certificate,
		r.Device, r.Issuer, r.Check, string(r.Commitment)} {
		add(value)
	}
	out = binary.BigEndian.AppendUint32(out, uint32(len(r.Detail)))
	for _, name := range slices.Sorted(maps.Keys(r.Detail)) {
		add(name)
		add(r.Detail[name])
	}
	return sha256.Sum256(out)
}

// Root is the Merkle tree hash of leaves (RFC 6962, section 2.1).
func Root(leaves []Hash) Hash {
	switch len(leaves) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return leaves[0]
	}
	split := 1
	for split*2 < len(leaves) {
		split *= 2
	}
	left, right := Root(leaves[:split]), Root(leaves[split:])
	return sha256.Sum256(slices.Concat([]byte{1}, left[:], right[:]))
}

// Seal is a signed checkpoint over a batch of rows, chained to the one before.
type Seal struct {
	Number    int64 // from 1, without gaps
	First     int64 // place of the first row in the order of commits
	Last      int64
	Root      Hash
	Previous  Hash // of the seal before; zero for the first
	SealedAt  time.Time
	Signature []byte // Ed25519, of Text
}

// Text is what is signed: lines that people can compare.
func (s *Seal) Text() string {
	return fmt.Sprintf("assay audit seal 1\n%d\n%d-%d\n%s\n%s\n%s\n", s.Number, s.First, s.Last,
		base64.StdEncoding.EncodeToString(s.Root[:]), base64.StdEncoding.EncodeToString(s.Previous[:]), s.SealedAt.UTC().Format(time.RFC3339Nano))
}

// Hash is what the next seal names as its previous.
func (s *Seal) Hash() Hash { return sha256.Sum256([]byte(s.Text())) }

// Sign signs the seal.
func (s *Seal) Sign(key ed25519.PrivateKey) { s.Signature = ed25519.Sign(key, []byte(s.Text())) }

// Checkpoint is the seal as it is kept elsewhere: its text, and the signature as the last line.
func (s *Seal) Checkpoint() string {
	return s.Text() + base64.StdEncoding.EncodeToString(s.Signature) + "\n"
}

// ParseCheckpoint reads a checkpoint that was kept elsewhere and checks its signature.
func ParseCheckpoint(text string, key ed25519.PublicKey) (*Seal, error) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) != 7 || lines[0] != "assay audit seal 1" {
		return nil, errors.New("this is no checkpoint of an audit trail")
	}
	s := &Seal{}
	var errs [7]error
	s.Number, errs[0] = strconv.ParseInt(lines[1], 10, 64)
	first, last, _ := strings.Cut(lines[2], "-")
	s.First, errs[1] = strconv.ParseInt(first, 10, 64)
	s.Last, errs[2] = strconv.ParseInt(last, 10, 64)
	errs[3] = decodeHash(lines[3], &s.Root)
	errs[4] = decodeHash(lines[4], &s.Previous)
	s.SealedAt, errs[5] = time.Parse(time.RFC3339Nano, lines[5])
	s.Signature, errs[6] = base64.StdEncoding.DecodeString(lines[6])
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	if s.Checkpoint() != strings.Join(lines, "\n")+"\n" || !ed25519.Verify(key, []byte(s.Text()), s.Signature) {
		return nil, errors.New("the checkpoint is not signed by this installation's audit key")
	}
	return s, nil
}

func decodeHash(text string, into *Hash) error {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err == nil && len(raw) != len(into) {
		err = fmt.Errorf("%d bytes, not %d", len(raw), len(into))
	}
	copy(into[:], raw)
	return err
}

// Sealed is a row at its place, with the hash that was taken when it was sealed.
type Sealed struct {
	Seq  int64
	Row  Row
	Leaf []byte // nil: it has none
	Gone bool   // the place is there, and its row is not
}

// Fault is where the trail is not what was sealed.
type Fault struct {
	Seal int64  `json:"seal,omitempty"` // number
	Seq  int64  `json:"seq,omitempty"`  // place of a row, if it is known which
	Row  string `json:"row,omitempty"`
	What string `json:"what"`
}

// Check holds a seal against the one before it (nil for the first) and against its rows, and says what is
// wrong. A row that was changed is named, as long as its own hash was not changed with it.
func (s *Seal) Check(before *Seal, rows []Sealed, key ed25519.PublicKey) []Fault {
	var faults []Fault
	fault := func(seq int64, row, format string, args ...any) {
		faults = append(faults, Fault{Seal: s.Number, Seq: seq, Row: row, What: fmt.Sprintf(format, args...)})
	}
	number, first, previous := int64(1), s.First, Hash{}
	if before != nil {
		number, first, previous = before.Number+1, before.Last+1, before.Hash()
	}
	if s.Number != number {
		fault(0, "", "seals %d to %d are missing", number, s.Number-1)
	}
	if s.Previous != previous || s.First != first {
		fault(0, "", "it does not follow on the seal before")
	}
	if !ed25519.Verify(key, []byte(s.Text()), s.Signature) {
		fault(0, "", "its signature is not this installation's")
	}
	leaves := make([]Hash, len(rows))
	expected := s.First
	for i := range rows {
		r := &rows[i]
		if r.Seq != expected {
			fault(expected, "", "rows %d to %d are missing", expected, r.Seq-1)
			expected = r.Seq
		}
		expected++
		switch leaves[i] = Leaf(r.Seq, &r.Row); {
		case r.Gone:
			fault(r.Seq, r.Row.ID, "the row was deleted")
		case !bytes.Equal(leaves[i][:], r.Leaf):
			fault(r.Seq, r.Row.ID, "the row was changed")
		case errors.Is(VerifyPersonal(r.Row), ErrAltered):
			fault(r.Seq, r.Row.ID, "its personal values were changed")
		}
	}
	if expected != s.Last+1 {
		fault(expected, "", "rows %d to %d are missing", expected, s.Last)
	}
	if len(faults) == 0 && Root(leaves) != s.Root {
		fault(0, "", "a row among %d to %d was changed, with its hash", s.First, s.Last)
	}
	return faults
}
