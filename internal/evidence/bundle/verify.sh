#!/bin/sh
# Checks the evidence in this folder with OpenSSL. Exits with 1 at the first check that fails.
set -u
cd "$(dirname "$0")" || exit 1

check() { # what, command…
	what=$1
	shift
	if "$@" >/dev/null 2>&1; then
		echo "yes  $what"
	else
		echo "NO   $what"
		exit 1
	fi
}

hex() { od -An -v -tx1 | tr -d ' \n'; }

fresh() {
	want=$(openssl dgst -sha256 -r token.txt | cut -d ' ' -f 1 | tr a-f A-F)
	openssl asn1parse -in leaf.pem | grep -A 2 ':1\.2\.840\.113635\.100\.8\.11\.1$' | grep -q "HEX DUMP\]:$want\$"
}

contained() {
	leaf=$(openssl x509 -in leaf.pem -outform DER | hex)
	[ -n "$leaf" ] && hex <attestation.cbor | grep -q "$leaf"
}

same_key() {
	attested=$(openssl x509 -in leaf.pem -noout -pubkey)
	[ -n "$attested" ] && [ "$attested" = "$(openssl x509 -in certificate.pem -noout -pubkey)" ]
}

if [ -f root.pem ]; then
	check "the attestation chains to root.pem, as of when it came" \
		openssl verify -purpose any -attime "$(cat received-at.txt)" -CAfile root.pem -untrusted intermediates.pem leaf.pem
else
	echo "NO   there is no root.pem: put the manufacturer's own here"
	exit 1
fi
check "the attestation is fresh: it holds the SHA-256 of the token" fresh
check "the attestation is in the object that came" contained
if [ -f certificate.pem ]; then
	check "the certified key is the attested key" same_key
	check "the certificate was signed by its issuer" \
		openssl verify -partial_chain -no_check_time -CAfile issuers.pem certificate.pem
fi
