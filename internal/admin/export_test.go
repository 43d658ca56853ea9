package admin

import "net/http"

// Handle adds a route, for what none of the API's does.
func (a *API) Handle(pattern string, h http.HandlerFunc) { a.mux.HandleFunc(pattern, h) }
