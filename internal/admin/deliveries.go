package admin

import (
	"context"
	"errors"
	"io"
	"net/http"

	"assay/credential"
	"assay/internal/delivery"
	"assay/internal/issuance"

	"github.com/danielgtaylor/huma/v2"
)

func (a *API) addDeliveries() {
	add(a, route{
		method: http.MethodGet, path: "/credentials/{credential}/declarations", id: "show-declarations", tag: "credentials", scope: DeclarationsRead,
		summary:     "Fetch a credential's declarations",
		description: "The asset, then the configuration that references it, then (if asked for) the activation, as an MDM takes them: the same bytes until the credential is rendered again. The asset's DataURL is a secret.",
		also: map[int]string{http.StatusNotFound: noCredential, http.StatusConflict: "The credential was withdrawn.",
			http.StatusNotModified: "They are still what If-None-Match names."},
	}, a.showDeclarations)
	add(a, route{
		method: http.MethodGet, path: "/credentials/{credential}/profile", id: "show-profile", tag: "credentials", scope: DeclarationsRead,
		summary:     "Fetch a credential as a profile",
		description: "A .mobileconfig with a com.apple.security.acme payload and the server's CA certificates, signed where the server has a signing identity. It holds the code itself, so it can be had only while the code is alive.",
		also:        map[int]string{http.StatusNotFound: noCredential, http.StatusConflict: "The credential was withdrawn, its code is used, revoked or expired, or its template says authentication: MDM."},
	}, a.showProfile)
	add(a, route{
		method: http.MethodPost, path: "/credentials/{credential}/push", id: "push-credential", tag: "credentials", scope: CredentialsWrite,
		summary: "Push a credential's declarations to the MDM", description: "Now, beside the pushes that the server makes by itself. Takes them back there if the credential was withdrawn.",
		also: map[int]string{http.StatusNotFound: noCredential, http.StatusConflict: "No MDM is configured to push to.",
			http.StatusBadGateway: "The MDM did not take them; the detail says why."},
	}, a.push)
	add(a, route{
		method: http.MethodPost, path: "/documents", id: "publish-document", tag: "credentials", scope: CredentialsWrite, status: http.StatusCreated,
		summary:     "Publish a document that was written by hand",
		description: "Mints a code, puts it into the document and publishes that at an unguessable URL. The answer is what the Reference of an asset declaration needs.",
		also:        map[int]string{http.StatusNotFound: "There is no such directory."},
	}, a.publish)
	profile := a.huma.OpenAPI().Paths["/credentials/{credential}/profile"].Get
	describeRaw(profile, delivery.ProfileContentType, &huma.Schema{Type: huma.TypeString, Format: "binary"})
}

type declarationsInput struct {
	CredentialPath
	Known
	Activation bool `query:"activation" doc:"Whether to add an activation, for MDMs that do not make their own."`
}

func (a *API) showDeclarations(ctx context.Context, in *declarationsInput) (*tagged[Declarations], error) {
	d, err := a.config.Store.Delivery(ctx, in.id())
	if err != nil {
		return nil, err
	}
	if d.Asset == nil {
		return nil, withdrawn()
	}
	return tag(0, Declarations(delivery.Declarations(&d, in.Activation)))
}

func withdrawn() *Problem {
	return refuse(http.StatusConflict, delivery.CheckWithdrawn, "the credential was withdrawn: renew it to bring it back")
}

func (a *API) showProfile(ctx context.Context, in *CredentialPath) (*rawAnswer, error) {
	d, err := a.config.Store.Delivery(ctx, in.id())
	if err != nil {
		return nil, err
	}
	if !d.Credential.WithdrawnAt.IsZero() {
		return nil, withdrawn()
	}
	if d.Document.MDM {
		return nil, refuse(http.StatusConflict, "profile-authentication", "the template says authentication: MDM; a profile would hand the code to whoever has the file")
	}
	// Upkeep erases a dead document a while after its end.
	if d.Code.StatusAt(a.config.Now()) != issuance.CodeUnused {
		return nil, delivery.ErrDocumentOver
	}
	profile, err := delivery.Profile(d, a.config.Organization, a.config.Trust)
	if err != nil {
		return nil, err
	}
	if a.config.ProfileKey != nil {
		if profile, err = delivery.SignProfile(profile, a.config.ProfileChain, a.config.ProfileKey, a.config.Now()); err != nil {
			return nil, err
		}
	}
	return &rawAnswer{ContentType: delivery.ProfileContentType, Body: profile}, nil
}

func (a *API) push(ctx context.Context, in *CredentialPath) (*tagged[Credential], error) {
	if a.config.Push == nil {
		return nil, refuse(http.StatusConflict, "push-configured", "no MDM is configured to push to")
	}
	err := a.config.Push(ctx, a.call(ctx), in.id())
	if _, ok := errors.AsType[*delivery.PushError](err); ok {
		// What the store keeps of the failure is free of secrets, which an MDM may have quoted.
		d, readErr := a.config.Store.Delivery(ctx, in.id())
		if readErr != nil {
			return nil, readErr
		}
		p := refuse(http.StatusBadGateway, "push", "the MDM did not take the declarations: %s", d.Credential.PushError)
		p.cause = errors.New(d.Credential.PushError)
		return nil, p
	} else if err != nil {
		return nil, err
	}
	return a.credential(ctx, in.id())
}

type publishInput struct {
	Idempotency
	Body PublishDocument
}

type published struct{ Body Publication }

func (a *API) publish(ctx context.Context, in *publishInput) (*published, error) {
	written, findings := credential.Parse(in.Body.Document)
	if len(findings.Errors()) > 0 {
		return nil, invalidDocument(findings)
	}
	mint, p := a.mint(&in.Body.MintCode, "body")
	if p != nil {
		return nil, p
	}
	directoryURL, err := a.config.Declarer.DirectoryURL(mint.Directory)
	if err != nil {
		return nil, err
	}
	o, err := a.once(ctx, in.Idempotency, "POST /documents", in.Body)
	if err != nil {
		return nil, err
	}
	return twice(o, func(random io.Reader, replay bool) (*published, error) {
		publisher := delivery.Publisher{Store: a.minter(replay), BaseURL: a.config.Declarer.BaseURL, DirectoryURL: directoryURL, Random: random}
		made, err := publisher.Publish(ctx, o.call, written, mint)
		if err != nil {
			return nil, err
		}
		return &published{Publication{
			Code: a.codeOf(&made.Code), URL: made.URL, ContentType: made.ContentType, Size: made.Size, SHA256: made.SHA256,
		}}, nil
	})
}
