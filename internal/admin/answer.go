package admin

import (
	"encoding/json"
	"net/http"
	"strings"
)

// answer is the answer on its way: it knows its status, and leaves out the body that the client has
// already (If-None-Match, RFC 9110, section 13.1.2).
//
// It hides what else the connection's writer can do, so that huma sets no deadlines of its own: those
// are the listener's.
type answer struct {
	http.ResponseWriter
	ifNoneMatch string
	status      int
}

func (w *answer) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	if tag := w.Header().Get("ETag"); status == http.StatusOK && tag != "" && matches(w.ifNoneMatch, tag) {
		status = http.StatusNotModified
		w.Header().Del("Content-Type")
	}
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *answer) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.status == http.StatusNotModified {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// matches reports whether a list of entity tags, or *, names a tag.
func matches(list, tag string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if one = strings.TrimSpace(one); one == "*" || one == tag {
			return true
		}
	}
	return false
}

// writeProblem writes a problem as the answer.
func writeProblem(w http.ResponseWriter, p *Problem) {
	for name, values := range p.GetHeaders() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // an error here is the client's: it is gone
}
