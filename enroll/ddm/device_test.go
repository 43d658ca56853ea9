package ddm

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// failAt answers one message with an error.
func failAt(message string) func(string, http.ResponseWriter) bool {
	return func(name string, w http.ResponseWriter) bool {
		if name == message {
			http.Error(w, "no", http.StatusInternalServerError)
		}
		return name == message
	}
}

// say answers one message with a text.
func say(message, text string) func(string, http.ResponseWriter) bool {
	return func(name string, w http.ResponseWriter) bool {
		if name == message {
			io.WriteString(w, text)
		}
		return name == message
	}
}

func TestDeviceEnrolsOnce(t *testing.T) {
	s := newSite(t)
	for range 2 {
		if outcome, err := s.Connect(t.Context()); err != nil || outcome != nil {
			t.Fatalf("%+v, %v", outcome, err)
		}
	}
	if diff := cmp.Diff([]string{"Authenticate", "TokenUpdate", "Idle", "Idle"}, s.mdm.seen); diff != "" {
		t.Error(diff)
	}
	s.MDM.URL += "/another"
	if _, err := s.Connect(t.Context()); err == nil || !strings.Contains(err.Error(), "enrolled with") {
		t.Errorf("error %v", err)
	}
}

func TestHalfAnEnrolmentIsDoneAgain(t *testing.T) {
	s := newSite(t)
	s.mdm.answer = failAt("TokenUpdate")
	if err := s.Enrol(t.Context()); err == nil || !strings.Contains(err.Error(), "TokenUpdate: status 500") {
		t.Fatalf("error %v", err)
	}
	s.mdm.answer, s.mdm.seen = nil, nil
	if err := s.Enrol(t.Context()); err != nil || !cmp.Equal(s.mdm.seen, []string{"Authenticate", "TokenUpdate"}) {
		t.Errorf("%v, %v", s.mdm.seen, err)
	}
}

func TestDeviceProvesItsIdentityByHeaderToo(t *testing.T) {
	s := newSite(t)
	s.mdm.certHeader, s.MDM.CertHeader = "Client-Cert", "Client-Cert"
	if _, err := s.Connect(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDeviceTakesCommandsUntilThereAreNone(t *testing.T) {
	s := newSite(t)
	s.declareIdentity("t1", "None")
	s.mdm.commands = []string{"DeviceInformation", "DeclarativeManagement", "DeclarativeManagement"}
	s.mdm.brought = s.mdm.tokens()
	outcome, err := s.Connect(t.Context())
	if err != nil || outcome == nil || len(outcome.Enrolled) != 1 {
		t.Fatalf("%+v, %v", outcome, err)
	}
	var statuses []string
	for _, r := range s.mdm.results {
		statuses = append(statuses, r.Status+" "+r.CommandUUID)
	}
	if diff := cmp.Diff([]string{"Idle ", "Error uuid-3", "Acknowledged uuid-2", "Acknowledged uuid-1"}, statuses); diff != "" {
		t.Error(diff)
	}
	if s.mdm.results[1].ErrorChain[0].ErrorCode != 12021 {
		t.Errorf("error chain %v", s.mdm.results[1].ErrorChain)
	}
	if slices.Contains(s.mdm.seen, "tokens") {
		t.Error("asked for the tokens that the command brought")
	}
}

func TestDeviceLeavesAnMDMThatNeverRunsOutOfCommands(t *testing.T) {
	s := newSite(t)
	s.mdm.commands = make([]string, 5*maxCommands)
	for i := range s.mdm.commands {
		s.mdm.commands[i] = "ProfileList"
	}
	if _, err := s.Connect(t.Context()); err != nil || len(s.mdm.results) != maxCommands {
		t.Errorf("%d results, %v", len(s.mdm.results), err)
	}
}

func TestDeviceRefusesAnUnusableMDM(t *testing.T) {
	s := newSite(t)
	good := *s.MDM
	for want, change := range map[string]func(*MDM){
		`"" is no URL`:             func(m *MDM) { m.URL = "" },
		`"https:///mdm" is no URL`: func(m *MDM) { m.URL = "https:///mdm" },
		"a password in the URL":    func(m *MDM) { m.URL = "https://a:b@mdm.example.com" },
		"devices demand https":     func(m *MDM) { m.URL = "http://mdm.example.com/mdm" },
		"ftp://127.0.0.1: devices": func(m *MDM) { m.URL = "ftp://127.0.0.1" },
		"certificate and key":      func(m *MDM) { m.Identity.Leaf = nil },
		"MDM identity with":        func(m *MDM) { m.Identity.PrivateKey = nil },
	} {
		m := good
		change(&m)
		s.MDM = &m
		if _, err := s.Connect(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("connected: error %v does not say %q", err, want)
		}
		if _, err := s.Sync(t.Context(), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("synchronized: error %v does not say %q", err, want)
		}
	}
	if len(s.mdm.seen) > 0 {
		t.Errorf("sent %v", s.mdm.seen)
	}
}

func TestDeviceDoesNotFollowRedirects(t *testing.T) {
	s := newSite(t)
	s.mdm.answer = func(_ string, w http.ResponseWriter) bool {
		w.Header().Set("Location", s.mdm.server.URL+"/another")
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	}
	if _, err := s.Connect(t.Context()); err == nil || !strings.Contains(err.Error(), "status 307") || len(s.mdm.seen) != 1 {
		t.Errorf("%v, sent %v", err, s.mdm.seen)
	}
}

func TestWhatAnMDMSendsIsBoundedAndChecked(t *testing.T) {
	for name, test := range map[string]struct{ at, text, want string }{
		"large command":           {"Idle", strings.Repeat("x", maxReply+1), "more than 1048576 bytes"},
		"no property list":        {"Idle", "hello", "no XML property list"},
		"binary property list":    {"Idle", "bplist00", "no XML property list"},
		"command without UUID":    {"Idle", "<plist><dict><key>Command</key><dict><key>RequestType</key><string>X</string></dict></dict></plist>", "no CommandUUID"},
		"broken command":          {"Idle", "<plist><dict>", "read command"},
		"tokens":                  {"tokens", "[]", "tokens are not"},
		"no token":                {"tokens", "{}", "no DeclarationsToken"},
		"manifest":                {"declaration-items", "[]", "declaration-items are not"},
		"manifest without token":  {"declaration-items", `{"Declarations":{}}`, "no DeclarationsToken"},
		"manifest with long name": {"declaration-items", `{"Declarations":{"Assets":[{"Identifier":"` + strings.Repeat("x", 65) + `","ServerToken":"1"}]},"DeclarationsToken":"1"}`, "1 to 64 octets"},
		"manifest with one twice": {"declaration-items", `{"Declarations":{"Assets":[{"Identifier":"x","ServerToken":"1"}],"Configurations":[{"Identifier":"x","ServerToken":"1"}]},"DeclarationsToken":"1"}`, "of its own"},
		"manifest with too many":  {"declaration-items", `{"Declarations":{"Assets":[{}` + strings.Repeat(",{}", maxDeclarations) + `]},"DeclarationsToken":"1"}`, "more than 1000"},
		"declaration":             {"declaration/asset/asset", "[]", "not a JSON object"},
		"large declaration":       {"declaration/asset/asset", `{"x":"` + strings.Repeat("x", maxDeclaration) + `"}`, "more than 131072"},
		"declaration of another":  {"declaration/asset/asset", `{"Type":"com.apple.asset.credential.acme","Identifier":"other","ServerToken":"t1","Payload":{}}`, "announced"},
		"declaration of another kind": {
			"declaration/asset/asset", `{"Type":"com.apple.configuration.security.identity","Identifier":"asset","ServerToken":"t1","Payload":{}}`, "announced"},
		"another token": {"declaration/asset/asset", `{"Type":"com.apple.asset.credential.acme","Identifier":"asset","ServerToken":"t2","Payload":{}}`, "announced"},
		"unknown type":  {"declaration/asset/asset", `{"Type":"com.example.asset","Identifier":"asset","ServerToken":"t1","Payload":{}}`, "unknown type"},
		"no payload":    {"declaration/asset/asset", `{"Type":"com.apple.asset.credential.acme","Identifier":"asset","ServerToken":"t1"}`, "Payload"},
		"null payload":  {"declaration/asset/asset", `{"Type":"com.apple.asset.credential.acme","Identifier":"asset","ServerToken":"t1","Payload":null}`, "Payload"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.declareIdentity("t1", "None")
			if test.at != "Idle" {
				s.mdm.commands = []string{"DeclarativeManagement"}
			}
			s.mdm.answer = say(test.at, test.text)
			_, err := s.Connect(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v does not say %q", err, test.want)
			}
			if len(s.Folder.memory.Declarations) > 0 || s.documents.requests > 0 || len(s.mdm.reports) > 0 {
				t.Error("something was kept or done all the same")
			}
		})
	}
}

func TestFolderRefusesWhatItDidNotWrite(t *testing.T) {
	for name, text := range map[string]string{"no JSON": "{", "another version": `{"version":2}`, "no version": "{}"} {
		dir := t.TempDir()
		must(0, os.WriteFile(filepath.Join(dir, stateFile), []byte(text), 0o600))
		if _, err := OpenFolder(dir); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	s := newSite(t)
	s.declareIdentity("t1", "None")
	s.sync(t)
	info := must(os.Stat(filepath.Join(s.path, stateFile)))
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the state, which holds secret URLs, has mode %v", info.Mode())
	}
}
