package abmtest

import (
	"crypto/rand"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	defaultPage = 100  // "limit": 100 in Apple's example
	largestPage = 1000 // "Get Organization Devices"
)

// knownFields are what fields[orgDevices] may name ("Get Organization Devices").
var knownFields = []string{
	"serialNumber", "addedToOrgDateTime", "releasedFromOrgDateTime", "updatedDateTime", "deviceModel", "productFamily", "productType",
	"deviceCapacity", "partNumber", "orderNumber", "color", "status", "orderDateTime", "imei", "meid", "eid", "purchaseSourceId",
	"purchaseSourceType", "wifiMacAddress", "bluetoothMacAddress", "ethernetMacAddress", "assignedServer", "appleCareCoverage",
}

// list answers a listing.
func (s *Service) list(r *http.Request) Answer {
	if refused, ok := s.admit(r); !ok {
		return refused
	}
	limit := defaultPage
	if text := r.FormValue("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > largestPage {
			return refusal(http.StatusBadRequest, "PARAMETER_ERROR.INVALID", "limit must be in 1..1000.")
		}
		limit = n
	}
	if s.PageSize > 0 {
		limit = min(limit, s.PageSize)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	from := 0
	if cursor := r.FormValue("cursor"); cursor != "" {
		var known bool
		if from, known = s.cursors[cursor]; !known {
			return refusal(http.StatusBadRequest, "PARAMETER_ERROR.INVALID", "The cursor is not valid.")
		}
	}
	from = min(from, len(s.devices))
	to := min(from+limit, len(s.devices))
	data := []any{}
	for _, d := range s.devices[from:to] {
		d.ReleasedAt = time.Time{}
		data = append(data, s.resource(d, r))
	}
	links := map[string]any{"self": s.URL + r.URL.RequestURI()}
	paging := map[string]any{"limit": limit}
	if to < len(s.devices) {
		cursor := rand.Text()
		s.cursors[cursor] = to
		links["next"] = s.URL + "/v1/orgDevices?cursor=" + cursor
		paging["nextCursor"] = cursor
	}
	return Answer{Status: http.StatusOK, Header: jsonHeader(), Body: encoded(map[string]any{
		"data": data, "links": links, "meta": map[string]any{"paging": paging},
	})}
}

// one answers about one device, also one that was released.
func (s *Service) one(r *http.Request) Answer {
	if refused, ok := s.admit(r); !ok {
		return refused
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	serial := r.PathValue("id")
	d, found := s.released[serial]
	if i := slices.IndexFunc(s.devices, func(one Device) bool { return one.Serial == serial }); i >= 0 {
		d, found = s.devices[i], true
	}
	if !found {
		return refusal(http.StatusNotFound, "NOT_FOUND", "There is no resource of type 'orgDevices' with that id.")
	}
	self := s.URL + "/v1/orgDevices/" + serial
	return Answer{Status: http.StatusOK, Header: jsonHeader(), Body: encoded(map[string]any{
		"data": s.resource(d, r), "links": map[string]any{"self": self},
	})}
}

// admit lets a request for devices in, or answers why not.
func (s *Service) admit(r *http.Request) (Answer, bool) {
	if r.Method != http.MethodGet {
		return refusal(http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED", "The method is not allowed."), false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if end, known := s.tokens[token]; !bearer || !known || !s.Now().Before(end) {
		return unauthorized(), false
	}
	if !strings.Contains(r.Header.Get("Accept"), "application/json") {
		return refusal(http.StatusNotAcceptable, "NOT_ACCEPTABLE", "Accept must be application/json."), false
	}
	if names := r.FormValue("fields[orgDevices]"); names != "" {
		for name := range strings.SplitSeq(names, ",") {
			if !slices.Contains(knownFields, name) {
				return refusal(http.StatusBadRequest, "PARAMETER_ERROR.INVALID", "fields[orgDevices] names no attribute."), false
			}
		}
	}
	return s.withinLimit()
}

// withinLimit counts a request for devices against Limit.
func (s *Service) withinLimit() (Answer, bool) {
	if s.Limit == 0 {
		return Answer{}, true
	}
	now := s.Now()
	s.recent = slices.DeleteFunc(s.recent, func(at time.Time) bool { return !at.After(now.Add(-s.Per)) })
	if len(s.recent) < s.Limit {
		s.recent = append(s.recent, now)
		return Answer{}, true
	}
	answer := refusal(http.StatusTooManyRequests, "RATE_LIMIT_EXCEEDED", "Too many requests.")
	free := s.recent[0].Add(s.Per)
	switch s.RetryAfter {
	case "seconds":
		answer.Header.Set("Retry-After", strconv.Itoa(int((free.Sub(now)+time.Second-1)/time.Second)))
	case "date":
		answer.Header.Set("Retry-After", free.Add(time.Second-1).UTC().Format(http.TimeFormat))
	}
	return answer, false
}

// resource is a device as the API writes it, with the attributes that the request names.
func (s *Service) resource(d Device, r *http.Request) map[string]any {
	attributes := map[string]any{
		"serialNumber": d.Serial, "addedToOrgDateTime": "2025-04-30T22:05:14.192Z", "releasedFromOrgDateTime": nil,
		"updatedDateTime": "2025-05-01T15:33:54.164Z", "deviceModel": "iPhone 15 Pro", "productFamily": "iPhone", "productType": "iPhone16,1",
		"deviceCapacity": "256GB", "partNumber": "FD311LL/A", "orderNumber": "1234567890", "color": "", "status": "ASSIGNED",
		"orderDateTime": "2011-08-15T07:00:00Z", "imei": []string{"123456789012345"}, "meid": []string{"12345678901237"},
		"eid": "89049037640158663184237812557346", "purchaseSourceId": "-2085650007946880", "purchaseSourceType": "APPLE",
	}
	if !d.ReleasedAt.IsZero() {
		attributes["releasedFromOrgDateTime"] = d.ReleasedAt.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	maps.Copy(attributes, d.Attributes)
	if names := r.FormValue("fields[orgDevices]"); names != "" {
		maps.DeleteFunc(attributes, func(name string, _ any) bool { return !slices.Contains(strings.Split(names, ","), name) })
	}
	self := s.URL + "/v1/orgDevices/" + d.Serial
	return map[string]any{
		"type": "orgDevices", "id": d.Serial, "attributes": attributes,
		"relationships": map[string]any{"assignedServer": map[string]any{"links": map[string]any{
			"self": self + "/relationships/assignedServer", "related": self + "/assignedServer",
		}}},
		"links": map[string]any{"self": self},
	}
}

func unauthorized() Answer {
	return refusal(http.StatusUnauthorized, "NOT_AUTHORIZED", "Authentication credentials are missing or invalid.")
}

// refusal is an error as "ErrorResponse.Errors" has it.
func refusal(status int, code, detail string) Answer {
	return Answer{Status: status, Header: jsonHeader(), Body: encoded(map[string]any{"errors": []any{map[string]any{
		"id": rand.Text(), "status": strconv.Itoa(status), "code": code, "title": http.StatusText(status), "detail": detail,
	}}})}
}
