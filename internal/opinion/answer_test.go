package opinion

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var compareAnswers = cmp.AllowUnexported(answer{})

func TestAnswerIsRead(t *testing.T) {
	for text, want := range map[string]answer{
		`{"id":"a","verdict":"clean","score":0}`:                             {id: "a", verdict: "clean"},
		" {\"score\" : -1000 ,\n\"verdict\":\"v2-x9\",\"id\":\"\\u0061\"}\n": {id: "a", verdict: "v2-x9", score: -1000},
		`{"id":"a","verdict":"x","score":1000,"tags":[]}`:                    {id: "a", verdict: "x", score: 1000, tags: []string{}},
		good("a"): {id: "a", verdict: "clean", score: -7, tags: []string{"patched", "old-os"}, reason: "seen today"},
	} {
		got, err := parseAnswer([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got, compareAnswers); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

func TestAnswerIsReadStrictly(t *testing.T) {
	long := strings.Repeat("a", maxWord+1)
	var tags []string
	for i := range maxTags + 1 {
		tags = append(tags, fmt.Sprintf(`"t%d"`, i))
	}
	for text, want := range map[string]string{
		``:                                  "no JSON object",
		`null`:                              "no JSON object",
		`[]`:                                "no JSON object",
		`<html><body>Sign in</body></html>`: "no JSON object",
		`{`:                                 "not JSON",
		`{"id":"a"`:                         "not JSON",
		`{"id":"a",}`:                       "not JSON",
		`{id:"a"}`:                          "not JSON",
		`{"verdict":"x","score":1}`:         "lacks id",
		`{"id":"a","score":1}`:              "lacks verdict",
		`{"id":"a","verdict":"x"}`:          "lacks score",
		`{"id":"a","id":"b"}`:               "a member twice",
		`{"id":"a","\u0069d":"b"}`:          "a member twice",
		`{"ID":"a"}`:                        "none of id, verdict",
		`{"allow":true}`:                    "none of id, verdict",
		`{"id":null}`:                       "id is no text",
		`{"id":7}`:                          "id is no text",
		`{"verdict":""}`:                    "verdict is no word",
		`{"verdict":"Clean"}`:               "verdict is no word",
		`{"verdict":"a b"}`:                 "verdict is no word",
		`{"verdict":"a--b"}`:                "verdict is no word",
		`{"verdict":"-a"}`:                  "verdict is no word",
		`{"verdict":"1"}`:                   "verdict is no word",
		`{"verdict":"a\n"}`:                 "verdict is no word",
		`{"verdict":"` + long + `"}`:        "verdict is no word",
		`{"score":1001}`:                    "score is not within",
		`{"score":-1001}`:                   "score is not within",
		`{"score":1e2}`:                     "score is no whole number",
		`{"score":1.0}`:                     "score is no whole number",
		`{"score":-0}`:                      "score is no whole number",
		`{"score":"1"}`:                     "score is no whole number",
		`{"score":null}`:                    "score is no whole number",
		`{"score":99999999999999999999}`:    "score is no whole number",
		`{"tags":null}`:                     "tags is no list",
		`{"tags":"a"}`:                      "tags is no list",
		`{"tags":[null]}`:                   "a tag is no text",
		`{"tags":["a","A"]}`:                "a tag is no word",
		`{"tags":["a","a"]}`:                "one twice",
		`{"tags":[` + strings.Join(tags, ",") + `]}`: "more than 16",
		`{"reason":["x"]}`:                           "reason is no text",
		good("a") + `{}`:                             "something follows",
		good("a") + `x`:                              "something follows",
		"{\"reason\":\"\xff\"}":                      "not UTF-8",
		"\ufeff" + good("a"):                         "no JSON object",
	} {
		if _, err := parseAnswer([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestReasonIsCleanedInsteadOfRefused: a service may quote what a device wrote.
func TestReasonIsCleanedInsteadOfRefused(t *testing.T) {
	for text, want := range map[string]string{
		`two\nlines`:                       "two lines",
		`\u001b[31mred\u202e`:              "[31mred",
		` \u0000 `:                         "",
		strings.Repeat("ü", maxReason/2):   strings.Repeat("ü", maxReason/2),
		strings.Repeat("ü", maxReason/2+1): strings.Repeat("ü", 148) + "…",
	} {
		a, err := parseAnswer([]byte(`{"id":"a","verdict":"x","score":1,"reason":"` + text + `"}`))
		if err != nil || a.reason != want {
			t.Errorf("%.60s: %q, %v", text, a.reason, err)
		}
	}
}

// TestEveryGoodAnswerIsReadInAnyOrder holds reading against writing.
func TestEveryGoodAnswerIsReadInAnyOrder(t *testing.T) {
	words := rapid.StringMatching(`[a-z][a-z0-9]{0,9}(-[a-z0-9]{1,9}){0,2}`)
	rapid.Check(t, func(t *rapid.T) {
		want := answer{
			id: rapid.String().Draw(t, "id"), verdict: words.Draw(t, "verdict"), score: rapid.IntRange(-maxScore, maxScore).Draw(t, "score"),
			tags: rapid.SliceOfNDistinct(words, 0, maxTags, rapid.ID).Draw(t, "tags"),
		}
		values := map[string]any{"id": want.id, "verdict": want.verdict, "score": want.score, "tags": want.tags}
		var members []string
		for _, name := range rapid.Permutation([]string{"id", "verdict", "score", "tags"}).Draw(t, "order") {
			value, err := json.Marshal(values[name])
			if err != nil {
				t.Fatal(err)
			}
			members = append(members, fmt.Sprintf("%q:%s", name, value))
		}
		got, err := parseAnswer([]byte("{" + strings.Join(members, ",") + "}"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, compareAnswers); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	seeds := []string{good("a"), `{"id":"a","verdict":"x","score":0}`, `{"tags":[[[]]]}`, `{"reason":"\ud800"}`, "{", "null"}
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := parseAnswer(body)
		if err != nil {
			if strings.ContainsAny(err.Error(), "{}\"") {
				t.Errorf("%q quotes the answer", err)
			}
			return
		}
		if !word.MatchString(a.verdict) || len(a.verdict) > maxWord || a.score < -maxScore || a.score > maxScore || len(a.tags) > maxTags {
			t.Errorf("%q is read as %+v", body, a)
		}
		for _, tag := range a.tags {
			if !word.MatchString(tag) || len(tag) > maxWord {
				t.Errorf("tag %q", tag)
			}
		}
		if len(a.reason) > maxReason || !utf8.ValidString(a.reason) || strings.ContainsFunc(a.reason, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("reason %q", a.reason)
		}
		// Who reads it less strictly reads the same.
		var loose struct {
			ID, Verdict string
			Score       int
		}
		if err := json.Unmarshal(body, &loose); err != nil || loose.ID != a.id || loose.Verdict != a.verdict || loose.Score != a.score {
			t.Errorf("%q is read as %+v, loosely as %+v, %v", body, a, loose, err)
		}
	})
}
