package resource

// Matched is what a kind of very many objects saw when it compared, while it looked, what is on the host with what is
// wanted. Of what is exactly as wanted nothing is made: it is the wanted object again.
type Matched[R Resource] struct {
	// Owned are the objects that carry our mark, but those that are exactly as a wanted one is; Foreign are foreign ones.
	Owned, Foreign []R
	// Others are the wanted objects, by their place among all, that aren't there, or not exactly so.
	Others []int
	// As returns a wanted object that isn't among the others, as an observed one. It needs what the wanted one needs.
	As func(wanted R) R
}
