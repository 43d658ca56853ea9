package issuance

import "slices"

// The legal transitions of each status. Whatever is not listed never happens: stores change states
// by conditional writes alone, and the suite that every store runs holds them to these tables.
var (
	orderTransitions = map[OrderStatus][]OrderStatus{
		OrderPending:    {OrderReady, OrderInvalid},
		OrderReady:      {OrderProcessing, OrderInvalid},
		OrderProcessing: {OrderValid, OrderInvalid},
	}
	codeTransitions = map[CodeStatus][]CodeStatus{
		CodeUnused:  {CodeIssuing, CodeRevoked},
		CodeIssuing: {CodeConsumed, CodeUnused},
	}
	certificateTransitions = map[CertificateStatus][]CertificateStatus{
		CertificateReserved: {CertificateValid, CertificateAbandoned},
		CertificateValid:    {CertificateRevoked},
	}
)

// CanBecome reports whether an order may go from this status to next in one step.
func (s OrderStatus) CanBecome(next OrderStatus) bool {
	return slices.Contains(orderTransitions[s], next)
}

// CanBecome reports whether a code may go from this stored status to next in one step.
func (s CodeStatus) CanBecome(next CodeStatus) bool { return slices.Contains(codeTransitions[s], next) }

// CanBecome reports whether a certificate may go from this status to next in one step.
func (s CertificateStatus) CanBecome(next CertificateStatus) bool {
	return slices.Contains(certificateTransitions[s], next)
}
