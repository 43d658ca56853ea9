package admin

import (
	"iter"
	"strconv"
	"testing"
)

func TestNewestKeepsTheLastRows(t *testing.T) {
	for _, n := range []int{0, 1, maxData, maxData + 1, 2*maxData + 1, 5*maxData + 7} {
		cut := false
		kept, err := newest(upTo(n), &cut, func(i *int) (int, error) { return *i, nil })
		if err != nil || kept == nil || len(kept) != min(n, maxData) || cut != (n > maxData) {
			t.Fatalf("of %d: %d, cut %v, %v", n, len(kept), cut, err)
		}
		if n > 0 && (kept[len(kept)-1] != n || kept[0] != n-len(kept)+1) {
			t.Errorf("of %d: %d to %d", n, kept[0], kept[len(kept)-1])
		}
	}
}

func TestMergedHasEachOnceInOrder(t *testing.T) {
	cut := false
	id := func(s *string) string { return *s }
	if got := merged([]string{"b", "d"}, []string{"a", "b", "c"}, &cut, id); len(got) != 4 || got[0] != "a" || got[3] != "d" || cut {
		t.Errorf("%v, cut %v", got, cut)
	}
	var many []string
	for i := range maxData + 5 {
		many = append(many, strconv.Itoa(10000+i))
	}
	if got := merged(nil, many, &cut, id); len(got) != maxData || got[0] != "10005" || !cut {
		t.Errorf("%d from %s, cut %v", len(got), got[0], cut)
	}
}

// upTo yields 1 to n.
func upTo(n int) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		for i := 1; i <= n && yield(i, nil); i++ {
		}
	}
}
