package limits

import "sync"

// vouched remembers accounts in two generations of at most size each: when the younger is full, the older is
// forgotten. Those in use move to the younger.
type vouched struct {
	size int

	mu            sync.Mutex
	young, former map[string]struct{}
}

func (v *vouched) add(account string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.remember(account)
}

func (v *vouched) has(account string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.young[account]; ok {
		return true
	}
	if _, ok := v.former[account]; !ok {
		return false
	}
	v.remember(account)
	return true
}

// remember adds an account; the caller holds the lock.
func (v *vouched) remember(account string) {
	if v.young == nil || len(v.young) >= v.size {
		v.young, v.former = map[string]struct{}{}, v.young
	}
	v.young[account] = struct{}{}
}
