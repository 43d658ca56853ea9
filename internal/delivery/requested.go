package delivery

import (
	"assay/credential"
	"assay/csr"
)

// requested is what a device that has the document asks for in its CSR: the first pair of each
// RDN, clientAuth where the document names no usage, and the key that it tells it to make. The
// certificate profile compares the CSR with it.
func requested(c *credential.Credential) *csr.Request {
	r := &csr.Request{
		KeyUsage:    csr.KeyUsage(c.UsageFlags),
		ExtKeyUsage: c.ExtendedKeyUsage,
		KeyType:     "EC",
		KeySize:     c.KeySize,
	}
	if c.KeyType == credential.RSA {
		r.KeyType = "RSA"
	}
	if len(r.ExtKeyUsage) == 0 {
		r.ExtKeyUsage = []string{credential.ClientAuth}
	}
	for _, rdn := range c.Subject {
		if len(rdn) > 0 {
			r.Subject = append(r.Subject, []csr.Attribute{{Type: rdn[0].OID(), Value: rdn[0].Value()}})
		}
	}
	if c.SubjectAltName == nil {
		return r
	}
	for _, name := range []csr.AltName{
		{Kind: csr.AltEmail, Value: c.SubjectAltName.RFC822Name},
		{Kind: csr.AltDNS, Value: c.SubjectAltName.DNSName},
		{Kind: csr.AltURI, Value: c.SubjectAltName.UniformResourceIdentifier},
		{Kind: csr.AltUPN, Value: c.SubjectAltName.NTPrincipalName},
	} {
		if name.Value != "" {
			r.AltNames = append(r.AltNames, name)
		}
	}
	return r
}
