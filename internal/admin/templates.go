package admin

import (
	"context"
	"iter"
	"net/http"

	"assay/internal/delivery"
	"assay/internal/issuance"
	"assay/internal/lifetime"
)

func (a *API) addTemplates() {
	add(a, route{
		method: http.MethodGet, path: "/templates", id: "list-templates", tag: "templates", scope: TemplatesRead,
		summary: "List templates", description: "By name, as they are read from the installation's folder now.",
	}, a.listTemplates)
	add(a, route{
		method: http.MethodGet, path: "/templates/{template}", id: "show-template", tag: "templates", scope: TemplatesRead,
		summary: "Show a template", description: "By its name.",
		also: map[int]string{http.StatusNotFound: "There is no such template.", http.StatusNotModified: "It is still what If-None-Match names."},
	}, a.showTemplate)
}

// templateCursor begins what the cursors of templates hold.
const templateCursor = "template:"

type listTemplatesInput struct{ Paging }

func (a *API) listTemplates(_ context.Context, in *listTemplatesInput) (*page[Template], error) {
	list := listing[*delivery.Template, Template]{
		prefix: templateCursor,
		rows: func(p issuance.Page) iter.Seq2[*delivery.Template, error] {
			return func(yield func(*delivery.Template, error) bool) {
				all, err := a.config.Declarer.Templates.All()
				if err != nil {
					yield(nil, err)
					return
				}
				for _, t := range all {
					if templateCursor+t.Name > p.After && !yield(t, nil) {
						return
					}
				}
			}
		},
		id:   func(t **delivery.Template) string { return templateCursor + (*t).Name },
		wire: func(t **delivery.Template) (Template, bool, error) { return templateOf(*t), true, nil },
	}
	return list.read(in.Paging)
}

type showTemplateInput struct {
	Template string `path:"template" maxLength:"63" doc:"Name of the template."`
	Known
}

func (a *API) showTemplate(_ context.Context, in *showTemplateInput) (*tagged[Template], error) {
	t, err := a.config.Declarer.Templates.Get(in.Template)
	if err != nil {
		return nil, err
	}
	return tag(0, templateOf(t))
}

func templateOf(t *delivery.Template) Template {
	out := Template{Name: t.Name, Directory: t.Directory, Authentication: "None", Placeholders: t.Placeholders(), Document: t.Document()}
	for _, target := range t.Targets {
		out.Targets = append(out.Targets, target.String())
	}
	if t.MDM {
		out.Authentication = "MDM"
	}
	if t.RenewBefore != 0 {
		out.RenewBefore = lifetime.Text(t.RenewBefore)
	}
	return out
}
