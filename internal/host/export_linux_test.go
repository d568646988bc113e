package host

// For the tests.
var (
	AttachTeller = attachTeller
	ToldCookie   = toldCookie
)
