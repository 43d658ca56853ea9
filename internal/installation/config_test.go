package installation

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// validConfig is the smallest configuration that is accepted.
const validConfig = `version: 1
name: Example Inc.
listen: 127.0.0.1:8443
attestation: {apple: {roots: [builtin]}}
profiles: {device: {}}
directories: {default: {profile: device, accept: [apple]}}
`

func TestConfigTakesTheSmallest(t *testing.T) {
	c, err := parseConfig([]byte(validConfig))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Directories["default"].Identifiers; len(got) != 1 || got[0] != "code" {
		t.Errorf("a directory without identifiers takes %v, want codes only", got)
	}
}

func TestConfigRefuses(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"unknown key", "name:", "nmae: x\nname:", `line 2: unknown key "nmae"`},
		{"unknown key of a directory", "accept:", "acept: [], accept:", `unknown key "acept"`},
		{"unknown key of a profile", "device: {}", "device: {liftime: 1h}", `unknown key "liftime"`},
		{"duplicate key", "name:", "name: x\nname:", "already defined"},
		{"second document", "directories:", "---\ndirectories:", "expected single document"},
		{"newer version", "version: 1", "version: 2", "version is 2: this program reads version 1"},
		{"no version", "version: 1\n", "", "version is 0"},
		{"wrong type", "listen: 127.0.0.1:8443", "listen: []", "line 3: cannot construct"},
		{"no listen address", "listen: 127.0.0.1:8443", "listen: 127.0.0.1", "listen: "},
		{"all interfaces without url", "127.0.0.1:8443", "0.0.0.0:8443", "names no host that devices can reach"},
		{"all IPv6 interfaces without url", "127.0.0.1:8443", "'[::]:8443'", "names no host"},
		{"no host without url", "127.0.0.1:8443", "':8443'", "names no host"},
		{"metrics address", "name:", "metricsListen: nowhere\nname:", "metricsListen: "},
		{"profiles for everybody", "name:", "metricsListen: 0.0.0.0:9090\npprof: true\nname:", "pprof: metricsListen is 0.0.0.0:9090"},
		{"profiles for a network", "name:", "metricsListen: metrics.example.com:9090\npprof: true\nname:", "pprof: metricsListen is metrics"},
		{"profiles on every interface", "name:", "metricsListen: ':9090'\npprof: true\nname:", "pprof: metricsListen is :9090"},
		{"profiles nowhere", "name:", "pprof: true\nname:", "pprof: there is no metricsListen"},
		{"long shutdown", "name:", "shutdownDelay: 2m\nname:", "shutdownDelay: 2m0s is not between"},
		{"key without certificate", "name:", "tls: {key: x.pem}\nname:", "tls: certificate and key go together"},
		{"too many shards", "name:", "revocation: {shards: 5000}\nname:", "revocation.shards: 5000"},
		{"revocation by ftp", "name:", "revocation: {baseURL: 'ftp://x'}\nname:", "revocation.baseURL: "},
		{"unknown format", "attestation: {", "attestation: {aple: {roots: [x.pem]}, ", "attestation.aple: the format is not supported"},
		{"format without roots", "roots: [builtin]", "roots: []", "directories.default: accept: attestation.apple names no roots"},
		{"empty profile", "device: {}", "device: ~", "profiles.device: is empty"},
		{"unknown profile", "profile: device", "profile: other", `directories.default: profile "other" is not among profiles`},
		{"no directory", "directories: {default: {profile: device, accept: [apple]}}", "directories: {}", "at least one is needed"},
		{"directory name", "{default:", "{De/fault:", "directories.De/fault: a name is"},
		{"identifier", "profile: device,", "profile: device, identifiers: [imei],", `"imei" is none of code, serial, udid`},
		{"admin address", "name:", "admin: {listen: nowhere}\nname:", "admin: listen: "},
		{"admin on all interfaces without url", "name:", "admin: {listen: '0.0.0.0:8444'}\nname:", "admin: \"0.0.0.0:8444\" names no host"},
		{"admin by http", "name:", "admin: {listen: '127.0.0.1:1', url: 'http://x'}\nname:", "admin: url: "},
		{"admin url alone", "name:", "admin: {url: 'https://x'}\nname:", "admin: url without listen"},
		{"mdm without CA", "name:", "mdm: {listen: '127.0.0.1:1', match: {field: commonName, value: '{device.udid}'}}\nname:", "mdm.ca: at least one"},
		{"mdm without listen", "name:", "mdm: {ca: [x.pem]}\nname:", "mdm: listen is missing"},
		{"push with a password in the URL", "name:", "push: {kmfddm: {url: 'http://u:p@x', keyFile: k}}\nname:", "push.kmfddm: url: "},
		{"push without a key", "name:", "push: {kmfddm: {url: 'http://x'}}\nname:", "push.kmfddm: keyFile is missing"},
		{"push to nowhere", "name:", "push: {enrollment: '{device.udid}'}\nname:", "push.enrollment: nothing is pushed"},
		{"half an account", "name:", "inventory: {appleBusinessManager: {clientID: x}}\nname:", "inventory.appleBusinessManager: clientID, keyID and keyFile go together"},
		{"account of the other service", "name:", "inventory: {appleBusinessManager: {clientID: SCHOOLAPI.x, keyID: y, keyFile: z}}\nname:", "client ID SCHOOLAPI.x is of the API school"},
		{"unknown service", "name:", "inventory: {appleBusinessManager: {clientID: x, keyID: y, keyFile: z, api: home}}\nname:", `API "home" is neither`},
		{"service of another type", "name:", "inventory: {appleBusinessManager: {api: []}}\nname:", "cannot construct"},
		{"sync too often", "name:", "inventory: {appleBusinessManager: {clientID: x, keyID: y, keyFile: z, every: 1m}}\nname:", "every: 1m is not between 5m and 30d"},
		{"sync at no time", "name:", "inventory: {appleBusinessManager: {clientID: x, keyID: y, keyFile: z, every: daily}}\nname:", "no duration"},
		{"half a stand-in", "name:", "inventory: {appleBusinessManager: {clientID: x, keyID: y, keyFile: z, url: 'https://x'}}\nname:", "url and tokenURL go together"},
		{"stand-in by http", "name:", "inventory: {appleBusinessManager: {clientID: x, keyID: y, keyFile: z, url: 'http://x', tokenURL: 'https://x/t'}}\nname:", "would send the access token in the clear"},
		{"profile signing without a key", "name:", "profileSigning: {certificate: x.pem}\nname:", "profileSigning: certificate and key go together"},
		{"opinion in the clear", "name:", "opinion: {url: 'http://x', secretFile: k}\nname:", "opinion: url: the URL http://x would send"},
		{"opinion without a secret", "name:", "opinion: {url: 'https://x'}\nname:", "opinion: secretFile is missing"},
		{"opinion without a service", "name:", "opinion: {onFailure: neutral}\nname:", "opinion: url: "},
		{"opinion too slow", "name:", "opinion: {url: 'https://x', secretFile: k, timeout: 6s}\nname:", "opinion: timeout: the timeout 6s"},
		{"opinion before it is asked", "name:", "opinion: {url: 'https://x', secretFile: k, timeout: -1s}\nname:", "opinion: timeout: the timeout -1s"},
		{"opinion that fails open", "name:", "opinion: {url: 'https://x', secretFile: k, onFailure: issue}\nname:", `opinion: onFailure: "issue" is neither`},
		{"opinion with half a certificate", "name:", "opinion: {url: 'https://x', secretFile: k, clientCertificate: {key: x}}\nname:", "opinion: clientCertificate: "},
		{"unknown key of opinion", "name:", "opinion: {uri: 'https://x'}\nname:", `unknown key "uri"`},
		{"unknown limit", "name:", "limits: {guesses: off}\nname:", "limits.guesses: there is no such limit; there are reads, accounts,"},
		{"limit that is none", "name:", "limits: {reads: 10}\nname:", `limits.reads: "10" is no limit: say how much passes`},
		{"limits that are on", "name:", "limits: on\nname:", "cannot construct"},
		{"a list of limits", "name:", "limits: [off]\nname:", "cannot construct"},
		{"a limit twice", "name:", "limits: {reads: off, reads: off}\nname:", "already defined"},
		{"proxies without their header", "name:", "trustedProxies: [10.0.0.1]\nname:", `trustedProxies: header "" is neither`},
		{"proxies with a header that says nothing", "name:", "trustedProxies: [10.0.0.1]\nforwardedHeader: X-Real-IP\nname:", `trustedProxies: header "X-Real-IP" is neither`},
		{"header without proxies", "name:", "forwardedHeader: Forwarded\nname:", "trustedProxies: header without addresses"},
		{"everybody is a proxy", "name:", "trustedProxies: [0.0.0.0/0]\nforwardedHeader: Forwarded\nname:", "trustedProxies: proxy \"0.0.0.0/0\""},
		{"mdm header of nobody", "name:", "mdm: {forwardedHeader: Forwarded}\nname:", "mdm: listen is missing"},
		{"mdm header without proxies", "name:", "mdm: {listen: '127.0.0.1:1', ca: [x.pem], forwardedHeader: Forwarded}\nname:", "mdm.trustedProxies: header without addresses"},
		{"terms of service", "profile: device,", "profile: device, termsOfService: 'javascript:1',", "termsOfService: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(validConfig, c.from, c.to, 1)
			if text == validConfig {
				t.Fatal("the configuration was not changed")
			}
			if _, err := parseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			} else if strings.Contains(err.Error(), "installation.") || strings.Contains(err.Error(), "ca.") || strings.Contains(err.Error(), "abm.") {
				t.Errorf("%q names a Go type", err)
			}
		})
	}
}

func TestConfigURLRules(t *testing.T) {
	for url, want := range map[string]bool{
		"https://id.example.com": true, "https://id.example.com/": true, "https://id.example.com:8443": true,
		"http://id.example.com": false, "https://": false, "https://id.example.com/assay": false, "id.example.com": false,
		"https://id.example.com?x": false, "https://id.example.com#x": false, "https://user@id.example.com": false,
	} {
		_, err := parseConfig([]byte(validConfig + "url: '" + url + "'\n"))
		if (err == nil) != want {
			t.Errorf("url %q: %v, want accepted %v", url, err, want)
		}
	}
}

func TestConfigReportsEveryFaultAtOnce(t *testing.T) {
	_, err := parseConfig([]byte(`version: 1
url: http://id.example.com
listen: nonsense
tls: {key: x}
profiles: {device: ~}
opinion: {url: nowhere, timeout: 1h, onFailure: never}
directories:
  A: {profile: none, accept: [apple], identifiers: [imei]}
  b: ~
`))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"url: ", "listen: ", "tls: ", "opinion: url: ", "opinion: secretFile", "opinion: timeout", "opinion: onFailure", "profiles.device: ", "directories.A: a name is", `directories.A: profile "none"`,
		"directories.A: identifiers", "directories.A: accept", "directories.b: is empty",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not reported in:\n%v", want, err)
		}
	}
}

func TestConfigBaseURLComesFromURLElseAddress(t *testing.T) {
	c := &Config{}
	if got, err := baseURL(c.URL, "127.0.0.1:4711"); err != nil || got != "https://127.0.0.1:4711" {
		t.Errorf("without url: %q, %v", got, err)
	}
	c.URL = "https://id.example.com/"
	if got, err := baseURL(c.URL, "0.0.0.0:443"); err != nil || got != "https://id.example.com" {
		t.Errorf("with url: %q, %v", got, err)
	}
}

func TestLoadConfigRefusesHugeFile(t *testing.T) {
	dir := t.TempDir()
	data := validConfig + "#" + strings.Repeat("x", maxConfigSize)
	if err := os.WriteFile(filepath.Join(dir, configFile), []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadConfig(dir)
	if _, ok := errors.AsType[*ConfigError](err); !ok || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

func TestOpenSaysHowToMakeAnInstallation(t *testing.T) {
	_, err := LoadConfig("nowhere")
	if _, ok := errors.AsType[*ConfigError](err); !ok || !strings.Contains(err.Error(), "assay init --dir nowhere") {
		t.Errorf("got %v", err)
	}
}
