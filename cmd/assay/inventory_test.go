package main

import (
	"os"
	"strconv"
	"sync"
	"time"

	"assay/internal/inventory/abm/abmtest"

	"github.com/rogpeppe/go-internal/testscript"
)

// services are the stand-ins for Apple Business Manager, by the folder of the script that started them.
var services sync.Map

// scriptABM runs a stand-in for Apple Business Manager beside a script:
//
//	abm start               starts it: sets ABM_URL, ABM_TOKEN_URL, ABM_CLIENT and ABM_KEY_ID, and writes abm.pem
//	abm put SERIAL…         lists devices
//	abm release SERIAL…     releases devices, on 1 February 2026
//	abm remove SERIAL…      takes devices away without a trace
//	abm fail STATUS N       answers the next N listings with a status
func scriptABM(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: abm start|put|release|remove|fail")
	}
	work := ts.Getenv("WORK")
	if args[0] == "start" {
		service := abmtest.Start("business")
		ts.Defer(func() { services.Delete(work); service.Close() })
		services.Store(work, service)
		for name, value := range map[string]string{
			"ABM_URL": service.URL, "ABM_TOKEN_URL": service.TokenURL, "ABM_CLIENT": service.ClientID, "ABM_KEY_ID": service.KeyID,
		} {
			ts.Setenv(name, value)
		}
		ts.Check(os.WriteFile(ts.MkAbs("abm.pem"), service.KeyPEM(), 0o600))
		return
	}
	found, ok := services.Load(work)
	if !ok {
		ts.Fatalf("no stand-in was started")
	}
	service := found.(*abmtest.Service)
	if args[0] == "fail" {
		status, err := strconv.Atoi(args[1])
		ts.Check(err)
		n, err := strconv.Atoi(args[2])
		ts.Check(err)
		service.Fail(abmtest.List, abmtest.Repeated(n, abmtest.Status(status, ""))...)
		return
	}
	for _, serial := range args[1:] {
		switch args[0] {
		case "put":
			service.Put(abmtest.Device{Serial: serial})
		case "release":
			service.Release(serial, time.Date(2026, 2, 1, 8, 0, 0, 0, time.UTC))
		case "remove":
			service.Remove(serial)
		default:
			ts.Fatalf("abm %s is unknown", args[0])
		}
	}
}
