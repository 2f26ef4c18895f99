/** Connections of one device. The driver makes a hardware queue of 128 requests for each. */
export const MAX_DEVICE_CONNECTIONS = 16;
