package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"

	"assay/internal/admin/client"
	"assay/internal/audit"
)

// maxCheckpoint is the largest checkpoint file that is read, in bytes.
const maxCheckpoint = 4 << 10

type auditVerify struct {
	connection
	Checkpoint string `placeholder:"FILE" help:"Also check that the trail holds this seal, which was kept elsewhere."`
}

func (auditVerify) Help() string {
	return `Finds rows that were changed, deleted or put in another order since they were sealed, and says where; and seals that
were deleted. The server seals what was committed every five seconds, with keys/audit.key; what is younger is counted.
Values that were erased (assay device forget) are no fault.

Whoever holds the database and the key can seal a false trail anew: a checkpoint that was kept elsewhere
(assay audit checkpoint) tells.

Examples:
  assay audit verify --dir ./a
  assay audit verify --dir ./a --checkpoint 2026-11.txt

Exit codes: 0 all as it was sealed; 1 something is not; 2 wrong flags or unreadable input; 3 failed.`
}

// verifiedAudit is what verifying the trail came to.
type verifiedAudit struct {
	Seals     int           `json:"seals"`
	Rows      int64         `json:"rows"`
	Unsealed  int64         `json:"unsealed"`
	Faults    []audit.Fault `json:"faults"`
	PublicKey string        `json:"publicKey"` // base64
}

func (c *auditVerify) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	total := verifiedAudit{Faults: []audit.Fault{}}
	last := term.Now()
	var key ed25519.PublicKey
	for after := int64(0); ; {
		part, err := api.VerifyAudit(ctx, after)
		if err != nil {
			return refused(err)
		}
		key = part.PublicKey
		total.Seals, total.Rows, total.Unsealed = total.Seals+part.Seals, total.Rows+part.Rows, part.Unsealed
		total.Faults = append(total.Faults, part.Faults...)
		if after = part.Next; after == 0 {
			break
		}
		if now := term.Now(); now.Sub(last) >= progressInterval {
			last = now
			fmt.Fprintf(term.Err, "%d rows verified so far, %s\n", total.Rows, counted(len(total.Faults), "fault"))
		}
	}
	total.PublicKey = base64.StdEncoding.EncodeToString(key)
	if c.Checkpoint != "" {
		fault, err := c.held(term, key, func(number int64) (string, error) {
			seal, err := api.Checkpoint(ctx, number)
			return seal.Text, err
		})
		if err != nil {
			return err
		}
		if fault != nil {
			total.Faults = append(total.Faults, *fault)
		}
	}
	if g.JSON {
		if err := writeJSON(term.Out, total); err != nil {
			return err
		}
	} else {
		total.print(term)
	}
	if len(total.Faults) > 0 {
		return no()
	}
	return nil
}

// held checks that the trail holds a seal that was kept elsewhere.
func (c *auditVerify) held(term *terminal, key ed25519.PublicKey, seal func(int64) (string, error)) (*audit.Fault, error) {
	data, err := readInput(term, c.Checkpoint, maxCheckpoint)
	if err != nil {
		return nil, usage(err)
	}
	kept, err := audit.ParseCheckpoint(string(data), key)
	if err != nil {
		return &audit.Fault{What: c.Checkpoint + ": " + err.Error()}, nil
	}
	text, err := seal(kept.Number)
	if isProblem(err, http.StatusNotFound) {
		return &audit.Fault{Seal: kept.Number, What: "the seal that was kept elsewhere is not in the trail any more"}, nil
	} else if err != nil {
		return nil, refused(err)
	}
	if text != kept.Checkpoint() {
		return &audit.Fault{Seal: kept.Number, What: "the trail has another seal than the one that was kept elsewhere"}, nil
	}
	return nil, nil
}

func (v *verifiedAudit) print(term *terminal) {
	for _, f := range v.Faults {
		where := ""
		if f.Seal > 0 {
			where = fmt.Sprintf("seal %d", f.Seal)
		}
		if f.Row != "" {
			where += ", " + f.Row
		}
		sayf(term.Out, "  FAULT  %s  %s\n", where, f.What)
	}
	sayf(term.Out, "%s under %s: %s\n", counted(int(v.Rows), "row"), counted(v.Seals, "seal"), counted(len(v.Faults), "fault"))
	if v.Unsealed > 0 {
		sayf(term.Out, "%s not sealed yet: a running server seals them within five seconds\n", counted(int(v.Unsealed), "row"))
	}
}

type auditCheckpoint struct {
	connection
	Output string `short:"o" placeholder:"FILE" help:"Write to this file, which must not exist. Default: standard output."`
}

func (auditCheckpoint) Help() string {
	return `Prints the newest seal, to be kept where whoever runs the server cannot reach it. With it, assay audit verify
--checkpoint tells later that nothing up to it was changed.

Example:
  assay audit checkpoint --dir ./a -o 2026-11.txt

Exit codes: 0 printed; 1 nothing is sealed yet; 2 wrong flags; 3 failed.`
}

func (c *auditCheckpoint) Run(ctx context.Context, term *terminal, g *globals, api *client.Client) error {
	seal, err := api.Checkpoint(ctx, 0)
	if isProblem(err, http.StatusNotFound) {
		return noBecause(errors.New("nothing is sealed yet: a running server seals every five seconds"))
	} else if err != nil {
		return refused(err)
	}
	switch {
	case c.Output != "":
		f, err := os.OpenFile(c.Output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteString(seal.Text)
		return errors.Join(err, f.Close())
	case g.JSON:
		return writeJSON(term.Out, seal)
	}
	fmt.Fprint(term.Out, seal.Text)
	return nil
}
