/** What the files of routes share. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type { FastifyBaseLogger, FastifyInstance, RawServerDefault } from 'fastify';
import { Type } from 'typebox';
import { ErrorBody } from './shapes.ts';

export type Api = FastifyInstance<
  RawServerDefault,
  IncomingMessage,
  ServerResponse,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;

/** The answers that every route may give. */
export const ERRORS = { '4xx': ErrorBody, '5xx': ErrorBody };
export const NOTHING = Type.Null({ description: 'done' });
