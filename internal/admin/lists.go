package admin

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"strings"

	"assay/internal/base64url"
	"assay/internal/issuance"
)

// scanFactor bounds how many rows are read for one page where a filter is not the store's: so many
// times the limit. The page may then hold fewer things than asked for, and still name a next one.
const scanFactor = 5

// maxPage is the size in bytes of JSON at which a page ends, whatever its limit: the thing that reaches
// it is its last.
const maxPage = 4 << 20

// Paging is the part of a list that is asked for.
type Paging struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"100" doc:"At most so many things; fewer where they are large."`
	Cursor string `query:"cursor" maxLength:"200" doc:"The answer's next, to go on behind it. Opaque."`
}

// cursorVersion begins what a cursor holds; a later form would begin otherwise.
const cursorVersion = "1:"

// after is the id behind which the list goes on. A cursor of another list is refused.
func (p *Paging) after(prefix string) (string, *Problem) {
	if p.Cursor == "" {
		return "", nil
	}
	raw, err := base64url.Decode(p.Cursor)
	id, ok := strings.CutPrefix(string(raw), cursorVersion)
	if err != nil || !ok || !strings.HasPrefix(id, prefix) {
		return "", refuse(http.StatusBadRequest, "bad-cursor", "the cursor is not one that this list answered")
	}
	return id, nil
}

func cursorOf(id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(cursorVersion + id))
}

// page is the answer of a list.
type page[T any] struct{ Body List[T] }

// listing is how a list is made: rows in order, the id of a row, and its wire form, or false for one
// that is left out.
type listing[R, W any] struct {
	prefix   string // of the ids
	rows     func(issuance.Page) iter.Seq2[R, error]
	id       func(*R) string
	wire     func(*R) (W, bool, error)
	filtered bool // whether wire leaves rows out
}

// read reads one page.
func (l *listing[R, W]) read(p Paging) (*page[W], error) {
	after, problem := p.after(l.prefix)
	if problem != nil {
		return nil, problem
	}
	most := p.Limit
	if l.filtered {
		most *= scanFactor
	}
	out := &page[W]{Body: List[W]{Items: []W{}}}
	read, size, last := 0, 0, ""
	for row, err := range l.rows(issuance.Page{After: after, Limit: most + 1}) {
		if err != nil {
			return nil, err
		}
		if read == most || len(out.Body.Items) == p.Limit || size >= maxPage {
			out.Body.Next = cursorOf(last)
			break
		}
		read, last = read+1, l.id(&row)
		item, wanted, err := l.wire(&row)
		if err != nil {
			return nil, err
		}
		if !wanted {
			continue
		}
		text, err := json.Marshal(item)
		if err != nil {
			return nil, fmt.Errorf("measure %s: %w", last, err)
		}
		out.Body.Items, size = append(out.Body.Items, item), size+len(text)
	}
	return out, nil
}
