package report

import (
	"slices"
	"strings"
)

// groups are groups by name.
type groups map[string]*group

type group struct {
	times  series
	failed int
}

// of returns the group of a name.
func (g groups) of(name string) *group {
	if g[name] == nil {
		if len(g) >= maxGroups {
			name = others
		}
		if g[name] == nil {
			g[name] = &group{}
		}
	}
	return g[name]
}

// all returns the groups, the largest first.
func (g groups) all() []Group {
	list := make([]Group, 0, len(g))
	for name, one := range g {
		list = append(list, Group{name, one.times.times(), one.failed})
	}
	slices.SortFunc(list, func(a, b Group) int {
		if n := b.EventToEnd.Count + b.Failed - a.EventToEnd.Count - a.Failed; n != 0 {
			return n
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list
}
