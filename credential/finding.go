package credential

import (
	"fmt"
	"slices"
	"strings"
)

// Severity says what a finding means for the administrator.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // a device refuses the document, or its enrolment cannot succeed
	Warning Severity = "warning" // a device or server will do something else than one may think
)

// Finding is one broken rule at one place.
type Finding struct {
	Severity Severity `json:"severity"`
	Path     string   `json:"path"`          // JSON path, e.g. $.Subject[2][0][0]
	Line     int      `json:"line"`          // from 1; of the surrounding object if a key is missing
	Column   int      `json:"column"`        // in bytes, from 1
	Rule     string   `json:"rule"`          // stable id; see Rules
	Message  string   `json:"message"`       // what was found and what follows from it
	Fix      string   `json:"fix,omitempty"` // how to mend it
	Source   string   `json:"source"`        // where the rule comes from
}

func (f Finding) String() string { return f.Path + ": " + f.Message + " [" + f.Rule + "]" }

// Findings is everything found, in the order of the document.
type Findings []Finding

// Errors returns the findings of severity Error.
func (f Findings) Errors() Findings { return f.of(Error) }

// Warnings returns the findings of severity Warning.
func (f Findings) Warnings() Findings { return f.of(Warning) }

func (f Findings) of(s Severity) Findings {
	var out Findings
	for _, one := range f {
		if one.Severity == s {
			out = append(out, one)
		}
	}
	return out
}

// Err returns nil if no finding is an error, else an *InvalidError with all findings.
func (f Findings) Err() error {
	if len(f.Errors()) == 0 {
		return nil
	}
	return &InvalidError{Findings: f}
}

// InvalidError is a document that breaks rules which a device or server enforces.
type InvalidError struct {
	Findings Findings // warnings included
}

func (e *InvalidError) Error() string {
	broken := e.Findings.Errors()
	var b strings.Builder
	fmt.Fprintf(&b, "credential document has %d errors: ", len(broken))
	if len(broken) == 1 {
		b.Reset()
		b.WriteString("credential document: ")
	}
	for i, f := range broken {
		if i == 5 {
			fmt.Fprintf(&b, "; and %d more", len(broken)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(f.String())
	}
	return b.String()
}

// sortByPlace puts findings into the order of the document; equal places keep their order.
func (f Findings) sortByPlace() {
	slices.SortStableFunc(f, func(a, b Finding) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
}

// quote makes outside text fit for a message: escaped and of bounded length.
func quote(s string) string {
	const limit = 60
	if runes := []rune(s); len(runes) > limit {
		return fmt.Sprintf("%q…", string(runes[:limit-1]))
	}
	return fmt.Sprintf("%q", s)
}
