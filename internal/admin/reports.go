package admin

import (
	"context"
	"net/http"

	"assay/internal/delivery"

	"github.com/danielgtaylor/huma/v2"
)

func (a *API) addReports() {
	add(a, route{
		method: http.MethodPost, path: "/status", id: "report-status", tag: "status", scope: StatusWrite, limit: delivery.MaxStatusSize, raw: true,
		summary: "Hand in a status report", description: "A DDM StatusReport, as the device sent it to its MDM. What it says of declarations and certificates is matched to credentials by the declarations' Identifiers; everything else in it is left alone and not kept.",
	}, a.reportStatus)
	add(a, route{
		method: http.MethodPost, path: "/status/nanomdm", id: "report-nanomdm", tag: "status", scope: StatusWrite, limit: delivery.MaxNanoMDMEventSize, basic: true, raw: true,
		summary: "Take an event of NanoMDM's webhook", description: "The status reports in it are handled as those of POST /status; all other events are answered and left alone. NanoMDM can only put a token into the URL: https://nanomdm:TOKEN@host/api/v1/status/nanomdm.",
	}, a.reportNanoMDM)
	for _, path := range []string{"/status", "/status/nanomdm"} { // huma thinks that raw bytes are a string
		body := a.huma.OpenAPI().Paths[path].Post.RequestBody
		body.Required = true
		body.Content = map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}}}
	}
}

type rawInput struct {
	RawBody []byte `contentType:"application/json"`
}

type statusAnswer struct{ Body StatusResult }

func (a *API) reportStatus(ctx context.Context, in *rawInput) (*statusAnswer, error) {
	return a.report(ctx, in.RawBody)
}

func (a *API) reportNanoMDM(ctx context.Context, in *rawInput) (*statusAnswer, error) {
	if p := checkReport(in.RawBody); p != nil {
		return nil, p
	}
	status, ok, err := delivery.ParseNanoMDMEvent(in.RawBody)
	if err != nil {
		return nil, malformedMember("nanomdm-event", "body", err.Error())
	}
	if !ok {
		return &statusAnswer{StatusResult{Credentials: []string{}}}, nil
	}
	return a.report(ctx, status)
}

// checkReport refuses what is no JSON, or is nested so deep that only an attack is.
func checkReport(data []byte) *Problem {
	if err := checkJSON(data, unbounded, unbounded); err != nil {
		p := refuse(http.StatusBadRequest, malformedChecks[http.StatusBadRequest], "the body is not the JSON of a report")
		p.Errors = []Fault{{Message: shorten(err.Error()), Location: "body"}}
		return p
	}
	return nil
}

func (a *API) report(ctx context.Context, status []byte) (*statusAnswer, error) {
	if p := checkReport(status); p != nil {
		return nil, p
	}
	call := a.call(ctx)
	reports, err := delivery.ParseStatus(status, call.Now)
	if err != nil {
		return nil, malformedMember("status-report", "body", err.Error())
	}
	out := &statusAnswer{StatusResult{Credentials: []string{}}}
	if len(reports) == 0 {
		return out, nil
	}
	concerned, err := a.config.Store.RecordReports(ctx, call, reports)
	if err != nil {
		return nil, err
	}
	for _, id := range concerned {
		out.Body.Credentials = append(out.Body.Credentials, string(id))
	}
	return out, nil
}
