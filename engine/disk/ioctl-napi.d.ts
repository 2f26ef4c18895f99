declare module 'ioctl-napi' {
  /**
   * `ioctl(2)`, on the calling thread. An integer argument is passed as an int32; a buffer by its address. Returns the
   * call's result; throws an Error whose `code` is the errno as a decimal string.
   */
  function ioctl(fd: number, request: number, argument: number | Buffer): number;
  export = ioctl;
}
