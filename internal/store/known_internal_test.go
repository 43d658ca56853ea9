package store

import (
	"testing"

	"assay/internal/issuance"
)

func TestAccountReadBeforeAChangeIsNotRemembered(t *testing.T) {
	for name, change := range map[string]func(*knownAccounts){
		"changed":        func(k *knownAccounts) { k.forget("acct_1") },
		"some were left": func(k *knownAccounts) { k.forgetAll() },
	} {
		var k knownAccounts
		_, changes, _ := k.get("acct_1")
		change(&k) // after the row was read, before it is remembered
		k.put(issuance.Account{ID: "acct_1"}, changes)
		if _, _, ok := k.get("acct_1"); ok {
			t.Errorf("%s: an old row is remembered", name)
		}
	}
}

func TestForgottenAccountIsReadAgain(t *testing.T) {
	var k knownAccounts
	for _, id := range []issuance.AccountID{"acct_1", "acct_2"} {
		_, changes, _ := k.get(id)
		k.put(issuance.Account{ID: id}, changes)
	}
	k.forget("acct_1")
	if _, _, ok := k.get("acct_1"); ok {
		t.Error("a forgotten account is remembered")
	}
	if a, _, ok := k.get("acct_2"); !ok || a.ID != "acct_2" {
		t.Error("another account was forgotten")
	}
	k.forgetAll()
	if _, _, ok := k.get("acct_2"); ok {
		t.Error("an account is remembered after all were forgotten")
	}
}

func TestRememberedAccountsAreBounded(t *testing.T) {
	var k knownAccounts
	for n := range 3 * maxKnown {
		_, changes, _ := k.get("")
		k.put(issuance.Account{ID: issuance.AccountID(rune(n + 1))}, changes)
	}
	if len(k.rows) > maxKnown {
		t.Errorf("%d accounts are remembered, more than %d", len(k.rows), maxKnown)
	}
}
