package ddm

import (
	"encoding/json"
	"testing"
)

func FuzzParseDeclaration(f *testing.F) {
	f.Add([]byte(`{"Type":"com.apple.asset.credential.acme","Identifier":"assay.cred_1.asset","ServerToken":"1","Payload":{"Reference":{"DataURL":"https://id.example.com/credential/x","Size":1,"Hash-SHA-256":"00"},"Authentication":{"Type":"MDM"}}}`))
	f.Add([]byte(`{"Type":"com.apple.configuration.account.mail","Identifier":"a","ServerToken":"1","Payload":{"SMIME":{"Signing":{"IdentityAssetReference":"a"}}}}`))
	f.Add([]byte(`{"Type":"com.apple.activation.simple","Identifier":"a","ServerToken":"1","Payload":{"StandardConfigurations":["a"],"Predicate":"TRUEPREDICATE"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := ParseDeclaration(data)
		if err != nil {
			return
		}
		if again, err := ParseDeclaration(must(json.Marshal(d))); err != nil || again.Identifier != d.Identifier {
			t.Errorf("not read again: %v", err)
		}
		plan := newPlan(map[string]*Declaration{d.Identifier: d})
		if len(plan.states) != 1 || plan.states[d.Identifier].Active && d.kind() == Asset {
			t.Errorf("states %v", plan.states)
		}
		if a, err := ParseACMEAsset(d); err == nil && d.Type != TypeACMEAsset {
			t.Errorf("%s read as an ACME asset %v", d.Type, a)
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"Declarations":{"Activations":[],"Assets":[{"Identifier":"a","ServerToken":"1"}],"Configurations":[],"Management":[]},"DeclarationsToken":"1"}`))
	f.Add([]byte(`{"SyncTokens":{"Timestamp":"2026-01-01T00:00:00Z","DeclarationsToken":"1"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if token, err := parseTokens(data); err == nil && token == "" {
			t.Error("tokens without a token")
		}
		m, err := parseManifest(data)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, i := range m.items {
			if seen[i.identifier] || !isName(i.identifier) || !isName(i.serverToken) {
				t.Errorf("item %+v", i)
			}
			seen[i.identifier] = true
		}
	})
}

func FuzzParseCommand(f *testing.F) {
	f.Add([]byte(`<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd"><plist version="1.0"><dict><key>Command</key><dict><key>Data</key><data>e30=</data><key>RequestType</key><string>DeclarativeManagement</string></dict><key>CommandUUID</key><string>1</string></dict></plist>`))
	f.Add([]byte(`<plist><dict><key>CommandUUID</key><string>1</string><key>Command</key><dict><key>RequestType</key><string>ProfileList</string></dict></dict></plist>`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseCommand(data)
		if err == nil && c != nil && (c.CommandUUID == "" || c.Command.RequestType == "") {
			t.Errorf("command %+v", c)
		}
	})
}
