// Protocols of barewire's own, served by every peer.
export const ECHO = '/barewire/echo/1.0.0'
export const HALF_CLOSE = '/barewire/test/half-close/1.0.0'
export const RESET = '/barewire/test/reset/1.0.0'
export const HOLD = '/barewire/test/hold/1.0.0'
export const PING = '/ipfs/ping/1.0.0'
