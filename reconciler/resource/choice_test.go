package resource

import "testing"

func TestEffective(t *testing.T) {
	id := func(name string) ID { return ID{Kind: "sysctl", Name: name} }
	value := []Field{{Name: "value", Before: "cubic", After: "bbr"}}
	for _, c := range []struct {
		makes   []ID
		changes []Change
		want    string
	}{
		{nil, nil, "bbr"},
		{nil, []Change{{ID: id("a"), Action: Create}}, "bbr"},
		{[]ID{id("a"), id("b")}, []Change{{ID: id("c"), Action: Update}}, "bbr"},
		{[]ID{id("a")}, []Change{{ID: id("a"), Action: Update, Fields: value}}, "cubic"},
		{[]ID{id("a")}, []Change{{ID: id("a"), Action: Create}}, "not there"},
		{[]ID{id("a")}, []Change{{ID: id("a"), Action: Delete}}, "other than chosen: 1 of 1 objects"},
		{[]ID{id("a"), id("b"), id("c")}, []Change{{ID: id("a"), Action: Create}, {ID: id("b"), Action: Update, Fields: value}},
			"other than chosen: 2 of 3 objects"},
	} {
		if got := (Choice{Chosen: "bbr", Makes: c.makes}).Effective(c.changes); got != c.want {
			t.Errorf("%v with %v is %q, want %q", c.makes, c.changes, got, c.want)
		}
	}
}
